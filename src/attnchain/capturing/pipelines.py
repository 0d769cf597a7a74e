"""Diffusion pipelines: which step is running, and which side of guidance."""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn

from attnchain.capturing.calls import RunningModule
from attnchain.capturing.sites import Branch
from attnchain.errors import UnsupportedModelError
from attnchain.replacing import replaced

Part = tuple[Branch | None, slice]

UNCONDITIONAL_FIRST: tuple[Branch, Branch] = ("unconditional", "conditional")
CONDITIONAL_FIRST: tuple[Branch, Branch] = ("conditional", "unconditional")

GUIDED: dict[str, tuple[Branch, Branch]] = {
    "StableDiffusionPipeline": UNCONDITIONAL_FIRST,
    "StableDiffusionXLPipeline": UNCONDITIONAL_FIRST,
    "StableDiffusion3Pipeline": UNCONDITIONAL_FIRST,
    "PixArtAlphaPipeline": UNCONDITIONAL_FIRST,
    "PixArtSigmaPipeline": UNCONDITIONAL_FIRST,
    "DiTPipeline": CONDITIONAL_FIRST,
}

CONTEXTS: dict[str, Branch] = {"cond": "conditional", "uncond": "unconditional"}


DENOISERS = ("transformer", "unet", "transformer_2")
"""Where pipelines keep the networks of their steps; Wan 2.2 has two of them."""


@dataclass
class Denoising:
    """Follows one diffusion pipeline: its scheduler counts, its denoisers are read.

    Attributes:
        pipeline: A diffusers pipeline.
        context: Side of guidance that the pipeline says it is running, if it does.
    """

    pipeline: Any
    context: Branch | None = None
    _calls: int = 0

    @property
    def step(self) -> int:
        """Number of the step that is running; Heun and KDPM2 call twice for a step."""
        return self._calls // getattr(self.pipeline.scheduler, "order", 1)

    @property
    def denoisers(self) -> dict[str, nn.Module]:
        """The networks that are run at the steps, under the pipeline's own names.

        Raises:
            UnsupportedModelError: The pipeline has none.
        """
        parts = {name: getattr(self.pipeline, name, None) for name in DENOISERS}
        found = {name: m for name, m in parts.items() if isinstance(m, nn.Module)}
        if found:
            return found
        message = (
            f"capture expects a torch module, or a diffusers pipeline with a "
            f"transformer or unet, but was given {type(self.pipeline).__name__}"
        )
        if isinstance(getattr(self.pipeline, "model", None), nn.Module):
            message += "; capture its .model"
        raise UnsupportedModelError(message)

    @property
    def denoiser(self) -> nn.Module:
        """The network of the first steps.

        Raises:
            UnsupportedModelError: The pipeline has none.
        """
        return next(iter(self.denoisers.values()))

    @property
    def network(self) -> nn.Module:
        """The denoiser, or all of them in one module, each under its name."""
        several = self.denoisers
        return nn.ModuleDict(several) if len(several) > 1 else self.denoiser

    @contextmanager
    def following(self) -> Generator[None]:
        """Counts the scheduler's steps, and lets it alone afterwards."""
        scheduler = self.pipeline.scheduler
        wrapped: list[tuple[Any, str, Callable[..., Any]]] = [
            (scheduler, "set_timesteps", self._restarting),
            (scheduler, "step", self._counting),
            *((one, "cache_context", self._naming) for one in self.denoisers.values()),
        ]
        with ExitStack() as stack:
            for owner, name, wrapper in wrapped:
                if hasattr(owner, name):
                    value = wrapper(getattr(owner, name))
                    stack.enter_context(replaced(owner, name, value))
            yield

    def parts(self, stack: Sequence[RunningModule], n_pictures: int) -> list[Part]:
        """Splits a batch into the sides of classifier-free guidance.

        A batch is split where the pipeline is known to stack both sides, does use
        guidance, and gave the denoiser the same latents twice.

        Args:
            stack: The running modules, the denoiser first.
            n_pictures: Size of the batch.
        """
        both = slice(None)
        order = GUIDED.get(type(self.pipeline).__name__)
        if order is None or not self._is_doubled(stack, n_pictures):
            return [(self.context, both)]
        half = n_pictures // 2
        return [(order[0], slice(half)), (order[1], slice(half, None))]

    def _is_doubled(self, stack: Sequence[RunningModule], n_pictures: int) -> bool:
        """Tells whether guidance is on and the batch holds the same latents twice."""
        guided = getattr(self.pipeline, "do_classifier_free_guidance", True)
        if not guided or n_pictures % 2:
            return False
        for call, name in product(stack, ("sample", "hidden_states")):
            latents = call.tensor(name)
            if latents is not None:
                halves = cast("list[Tensor]", latents.split(n_pictures // 2))
                return len(halves) == 2 and torch.equal(*halves)
        return False

    def _restarting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            self._calls = 0
            return function(*args, **kwargs)

        return set_timesteps

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            outcome = function(*args, **kwargs)
            self._calls += 1
            return outcome

        return step

    def _naming(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        @contextmanager
        def cache_context(name: str, *args: Any, **kwargs: Any) -> Generator[None]:
            with function(name, *args, **kwargs):
                self.context = CONTEXTS.get(name)
                try:
                    yield
                finally:
                    self.context = None

        return cache_context
