"""Diffusion pipelines: which step is running, and which side of guidance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from itertools import product
from typing import Any

import torch

from attnchain.capturing.calls import RunningModule
from attnchain.capturing.sites import Branch
from attnchain.errors import UnsupportedModelError

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


@dataclass
class Denoising:
    """Follows one diffusion pipeline: its scheduler counts, its denoiser is read.

    Attributes:
        pipeline: A diffusers pipeline.
        step: Number of the step that is running.
        context: Side of guidance that the pipeline says it is running, if it does.
    """

    pipeline: Any
    step: int = 0
    context: Branch | None = None

    @property
    def denoiser(self) -> torch.nn.Module:
        """The network that is run at each step.

        Raises:
            UnsupportedModelError: The pipeline has none.
        """
        for name in ("transformer", "unet"):
            model = getattr(self.pipeline, name, None)
            if isinstance(model, torch.nn.Module):
                return model
        message = (
            f"capture expects a torch module, or a diffusers pipeline with a "
            f"transformer or unet, but was given {type(self.pipeline).__name__}"
        )
        if isinstance(getattr(self.pipeline, "model", None), torch.nn.Module):
            message += "; capture its .model"
        raise UnsupportedModelError(message)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Counts the scheduler's steps, and lets it alone afterwards."""
        scheduler, denoiser = self.pipeline.scheduler, self.denoiser
        with ExitStack() as stack:
            for owner, name, wrapper in (
                (scheduler, "set_timesteps", self._restarting),
                (scheduler, "step", self._counting),
                (denoiser, "cache_context", self._naming),
            ):
                if hasattr(owner, name):
                    stack.enter_context(_wrapped(owner, name, wrapper))
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
                first, *second = latents.split(n_pictures // 2)
                return len(second) == 1 and torch.equal(first, second[0])
        return False

    def _restarting(self, function: Callable) -> Callable:
        @wraps(function)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            self.step = 0
            return function(*args, **kwargs)

        return set_timesteps

    def _counting(self, function: Callable) -> Callable:
        @wraps(function)
        def step(*args: Any, **kwargs: Any) -> Any:
            outcome = function(*args, **kwargs)
            self.step += 1
            return outcome

        return step

    def _naming(self, function: Callable) -> Callable:
        @wraps(function)
        @contextmanager
        def cache_context(name: str) -> Iterator[None]:
            with function(name):
                self.context = CONTEXTS.get(name)
                try:
                    yield
                finally:
                    self.context = None

        return cache_context


@contextmanager
def _wrapped(owner: Any, name: str, wrapper: Callable) -> Iterator[None]:
    """Puts a wrapper before a method of one object, and takes it away again."""
    own = vars(owner)
    was_own, before = name in own, getattr(owner, name)
    own[name] = wrapper(before)
    try:
        yield
    finally:
        if was_own:
            own[name] = before
        else:
            del own[name]
