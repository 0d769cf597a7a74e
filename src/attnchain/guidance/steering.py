"""Guidance around existing pipelines: the denoiser's answers are steered."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from attnchain.capturing import Denoising
from attnchain.errors import ArgumentError, UnsupportedModelError
from attnchain.guidance.degrading import NoiseLevel
from attnchain.guidance.family import (
    Run,
    is_one_by_one,
    split_variance,
    unconditional_part,
)
from attnchain.guidance.reader import BlockReader
from attnchain.guidance.settings import AttentionGuidance
from attnchain.replacing import replaced


@dataclass
class Guided:
    """What happened inside `guide`.

    Attributes:
        block: Name of the attention module that is read.
        runs: How often the denoiser was called: "guided" and "plain".
        masked: Share of tokens blurred at each guided call.
    """

    block: str
    runs: Counter[str] = field(default_factory=Counter)
    masked: list[float] = field(default_factory=list)


@contextmanager
def guide(
    pipeline: Any,
    guidance: AttentionGuidance | None = None,
    *,
    scheduler: Any = None,
) -> Iterator[Guided]:
    r"""Steers a pipeline, or a bare denoiser, by self-attention guidance.

    Every guided call runs the denoiser twice: as asked, then on the degraded latents.
    With classifier-free guidance in one batch the unconditional half is read and
    degraded, and $s\,(e - d)$ is added to both halves, which adds it once to what the
    pipeline makes of them. The pipeline, its scheduler and its own guidance do not
    change; the denoiser is as before when the block ends.

    Args:
        pipeline: A diffusers pipeline (DDPM, DDIM, Stable Diffusion 1 to 3.5, SDXL,
            DiT, PixArt, Lumina 2, FLUX without its true classifier-free guidance;
            Stable Diffusion 1 and 2 from a picture), or a diffusers denoiser.
        guidance: Settings; TokenRank by default.
        scheduler: For a bare denoiser, the scheduler that runs it.

    Yields:
        A `Guided`, which counts what happened.

    Raises:
        UnsupportedModelError: No denoiser or scheduler, or a scheduler, pipeline or
            attention that guidance cannot read; the message says which.
        SiteNotFoundError: There is no such block.
        ArgumentError: `guidance` is something else.

    Cost:
        One more run of the denoiser at each guided step, on half the batch with
        classifier-free guidance, and TokenRank of one block.

    Example:
        >>> with guide(pipeline, AttentionGuidance(scale=0.75)):  # doctest: +SKIP
        ...     picture = pipeline("", num_inference_steps=50).images[0]
    """
    guidance = AttentionGuidance() if guidance is None else guidance
    if not isinstance(guidance, AttentionGuidance):
        message = (
            f"guidance must be an AttentionGuidance, such as AttentionGuidance.sag() "
            f"or AttentionGuidance(salience), but is {guidance!r}"
        )
        raise ArgumentError(message)
    bare = isinstance(pipeline, nn.Module)
    denoiser = pipeline if bare else Denoising(pipeline).denoiser
    scheduler = scheduler or getattr(pipeline, "scheduler", None)
    if scheduler is None:
        message = "a bare denoiser needs its scheduler: guide(model, scheduler=...)"
        raise UnsupportedModelError(message)
    _check_unguided(denoiser)
    reader = BlockReader(denoiser, guidance.block)
    steering = _Steering(guidance, reader, scheduler, None if bare else pipeline)
    with steering.steered():
        yield steering.guided


def _check_unguided(denoiser: nn.Module) -> None:
    if isinstance(getattr(denoiser.forward, "__self__", None), _Steering):
        message = (
            f"this {type(denoiser).__name__} is guided already; end that block before "
            f"another one begins"
        )
        raise UnsupportedModelError(message)


class _Steering:
    """Takes the place of a denoiser's forward method."""

    def __init__(
        self,
        guidance: AttentionGuidance,
        reader: BlockReader,
        scheduler: Any,
        pipeline: Any,
    ) -> None:
        self.guidance = guidance
        self.reader = reader
        self.scheduler = scheduler
        self.pipeline = pipeline
        self.denoiser = reader.denoiser
        self.forward: Callable[..., Any] = self.denoiser.forward
        self.guided = Guided(str(reader.block))
        self._first: float | None = None

    @contextmanager
    def steered(self) -> Iterator[None]:
        """Replaces the method, and puts the old one back whatever happens."""
        with replaced(self.denoiser, "forward", self._run), self._one_side():
            yield

    @contextmanager
    def _one_side(self) -> Iterator[None]:
        """Refuses the second side of guidance where it is a call of its own."""
        if not hasattr(self.denoiser, "cache_context"):
            yield
            return
        plain: Any = self.denoiser.cache_context

        def cache_context(name: str) -> Any:
            if name == "uncond":
                message = (
                    f"{type(self.pipeline).__name__} runs the two sides of "
                    f"classifier-free guidance one after the other, which cannot be "
                    f"steered together; switch it off (true_cfg_scale=1)"
                )
                raise UnsupportedModelError(message)
            return plain(name)

        with replaced(self.denoiser, "cache_context", cache_context):
            yield

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        run = Run.of(self.denoiser, args, kwargs)
        with replaced(self.denoiser, "forward", self.forward):
            if self._is_first_side(run) or not self._is_active(run.time):
                self.guided.runs["plain"] += 1
                return self.denoiser(*args, **kwargs)
            self.guided.runs["guided"] += 1
            with torch.no_grad():
                return self._steer(run)

    def _is_active(self, time: float) -> bool:
        times = self.scheduler.timesteps
        step = int((times.double() - time).abs().argmin())
        return self.guidance.is_active(step, len(times))

    def _is_first_side(self, run: Run) -> bool:
        """Whether the unconditional side of guidance follows as a run of its own."""
        if not is_one_by_one(self.pipeline):
            return False
        first = self._first != run.time
        self._first = run.time if first else None
        return first

    def _steer(self, run: Run) -> Any:
        part = unconditional_part(self.pipeline, run)
        with self.reader.reading(run.size) as reading:
            output = self.denoiser(**run.arguments)
        latents = run.latents
        predicted, variance = split_variance(run.prediction(output[0]), latents)
        mask = self.guidance.mask(reading.attention(part), reading.layout)
        self.guided.masked.append(float(mask.float().mean()))
        prepared = self.guidance.prepare(
            latents[part],
            predicted[part],
            level=NoiseLevel.of(self.scheduler, run.time),
            mask=mask,
        )
        again = self.denoiser(**run.degraded(prepared, part))[0]
        degraded, _ = split_variance(run.prediction(again), prepared)
        shift = self.guidance.combine(predicted[part], degraded) - predicted[part]
        if is_one_by_one(self.pipeline):
            # u + shift / (1 - g) for u gives u + g (c - u) + shift.
            shift = shift / (1 - self.pipeline.guidance_scale)
        shifts = len(predicted) // len(shift)
        steered = predicted + shift.repeat(shifts, 1, 1, 1)
        return _with_prediction(
            output, run.output(torch.cat([steered, variance], dim=1))
        )


def _with_prediction(output: Any, predicted: Tensor) -> Any:
    """An output like the given one, with another prediction."""
    if isinstance(output, tuple):
        return (predicted, *output[1:])
    return type(output)(sample=predicted)
