"""Self-attention guidance as a guider of diffusers' modular pipelines."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnchain.checks import check_number
from attnchain.errors import ArgumentError, CaptureError
from attnchain.guidance.degrading import NoiseLevel
from attnchain.guidance.family import Run, split_variance
from attnchain.guidance.reader import BlockReader, Reading
from attnchain.guidance.settings import AttentionGuidance
from attnchain.optional import require
from attnchain.replacing import replaced

if TYPE_CHECKING:
    import diffusers
    from diffusers.configuration_utils import register_to_config
    from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
else:
    FEATURE = "SelfAttentionGuider"
    diffusers = require("diffusers", extra="diffusers", feature=FEATURE)
    configuration = require(
        "diffusers.configuration_utils", extra="diffusers", feature=FEATURE
    )
    guider_utils = require(
        "diffusers.guiders.guider_utils", extra="diffusers", feature=FEATURE
    )
    register_to_config = configuration.register_to_config
    BaseGuidance, GuiderOutput = guider_utils.BaseGuidance, guider_utils.GuiderOutput


STABLE_DIFFUSION = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


class SelfAttentionGuider(BaseGuidance):
    r"""Classifier-free and self-attention guidance for modular pipelines.

    $u + g\,(c - u) + s\,(u - d)$ with the conditional prediction c, the unconditional
    u, and d that of the degraded latents; without classifier-free guidance u = c.

    Make it with `SelfAttentionGuider.of(guidance, pipeline.scheduler)`: both are kept
    as plain values, so that the guider can be saved and loaded like any other.

    Args:
        guidance_scale: g; 1 switches classifier-free guidance off.
        attention: `AttentionGuidance.describe()`; TokenRank by default.
        scheduler: The configuration of the scheduler that runs the denoiser, with its
            `_class_name`; that of Stable Diffusion by default.
        start: Fraction of the steps before classifier-free guidance.
        stop: Fraction of the steps after which it ends.
        enabled: Whether to guide at all.

    Raises:
        ValueError: start or stop is no fraction (from diffusers).
        ArgumentError: An option of the attention guidance is out of range, or the
            scheduler is none.
    """

    _input_predictions = ["pred_cond", "pred_uncond", "pred_degraded"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        guidance_scale: float = 7.5,
        attention: dict[str, Any] | None = None,
        scheduler: dict[str, Any] | None = None,
        *,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        check_number(guidance_scale, "guidance_scale")
        super().__init__(start, stop, enabled)
        self.guidance_scale = guidance_scale
        self.attention = AttentionGuidance.from_description(attention or {})
        self._scheduler = _scheduler_of(scheduler)
        self._reader: BlockReader | None = None
        self._waiting = ExitStack()
        self._source: tuple[Run, Reading, Any] | None = None

    @classmethod
    def of(
        cls, guidance: AttentionGuidance, scheduler: Any, **options: Any
    ) -> "SelfAttentionGuider":
        """A guider with the settings of `guide`, for a pipeline's scheduler.

        Args:
            guidance: What to do.
            scheduler: The pipeline's scheduler.
            **options: guidance_scale, start, stop, enabled.
        """
        described = {"_class_name": type(scheduler).__name__} | dict(scheduler.config)
        return cls(attention=guidance.describe(), scheduler=described, **options)

    @property
    def is_conditional(self) -> bool:
        return self._count_prepared == 1

    @property
    def num_conditions(self) -> int:
        return 1 + self._is_free() + self._is_steered()

    def prepare_inputs(self, data: Any) -> list[Any]:
        return [
            self._prepare_batch(dict(data), index, name)
            for index, name in self._batches()
        ]

    def prepare_inputs_from_block_state(
        self, data: Any, input_fields: Mapping[str, Any]
    ) -> list[Any]:
        return [
            self._prepare_batch_from_block_state(dict(input_fields), data, index, name)
            for index, name in self._batches()
        ]

    def prepare_models(self, denoiser: nn.Module) -> None:
        self._waiting.close()
        self._count_prepared += 1
        if not self._is_steered():
            return
        if self._count_prepared == 1 + self._is_free():
            self._replace_once(denoiser, self._run_source)
        elif self._count_prepared == self.num_conditions:
            self._replace_once(denoiser, self._run_degraded)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        self._waiting.close()

    def forward(
        self,
        pred_cond: Tensor,
        pred_uncond: Tensor | None = None,
        pred_degraded: Tensor | None = None,
    ) -> GuiderOutput:
        free = pred_cond if pred_uncond is None else pred_uncond
        predicted = free + self.guidance_scale * (pred_cond - free)
        if pred_degraded is not None:
            predicted = predicted + self.attention.combine(free, pred_degraded) - free
        return GuiderOutput(
            pred=predicted, pred_cond=pred_cond, pred_uncond=pred_uncond
        )

    def _batches(self) -> list[tuple[int, str]]:
        """Which side of the inputs each run takes, and what its answer is called."""
        cond, uncond, degraded = self._input_predictions
        free = int(self._is_free())
        batches = [(0, cond)] + [(1, uncond)] * free
        return batches + [(free, degraded)] * self._is_steered()

    def _is_free(self) -> bool:
        """Whether classifier-free guidance is on at this step."""
        if not self._enabled or math.isclose(self.guidance_scale, 1.0):
            return False
        steps = self._num_inference_steps
        if steps is None:
            return True
        return int(self._start * steps) <= self._step < int(self._stop * steps)

    def _is_steered(self) -> bool:
        steps = self._num_inference_steps
        if not self._enabled or steps is None:
            return False
        return self.attention.is_active(self._step, steps)

    def _replace_once(
        self, denoiser: nn.Module, run: Callable[[nn.Module, Run], Any]
    ) -> None:
        """Takes over the next run of a denoiser, and nothing after it."""

        def once(*args: Any, **kwargs: Any) -> Any:
            self._waiting.close()
            return run(denoiser, Run.of(denoiser, args, kwargs))

        self._waiting.enter_context(replaced(denoiser, "forward", once))

    def _run_source(self, denoiser: nn.Module, run: Run) -> Any:
        """Reads the run that the degraded latents are made from."""
        if self._reader is None or self._reader.denoiser is not denoiser:
            self._reader = BlockReader(denoiser, self.attention.block)
        with self._reader.reading(run.size) as reading:
            output = denoiser(**run.arguments)
        self._source = run, reading, output[0]
        return output

    def _run_degraded(self, denoiser: nn.Module, run: Run) -> Any:
        """Puts the degraded latents in the place of the latents."""
        if self._source is None:
            message = (
                "the guider was asked for the degraded run before the run it is made "
                "from; call prepare_models and cleanup_models around every run"
            )
            raise CaptureError(message)
        (source, reading, output), self._source = self._source, None
        predicted, _ = split_variance(source.to_picture(output), source.latents)
        whole = slice(None)
        prepared = self.attention.prepare(
            source.latents,
            predicted,
            level=NoiseLevel.of(
                self._scheduler, float(torch.as_tensor(self._timestep))
            ),
            mask=self.attention.mask(reading.attention(whole), reading.layout),
        )
        return denoiser(**run.degraded(prepared, whole))


def _scheduler_of(config: Mapping[str, Any] | None) -> Any:
    """A scheduler from its configuration, to look up how noisy its steps are.

    Raises:
        ArgumentError: It is no configuration of a scheduler.
    """
    given = STABLE_DIFFUSION if config is None else config
    name = given.get("_class_name") if isinstance(given, Mapping) else None
    kind: Any = getattr(diffusers, str(name), None)
    reason = f"diffusers has no scheduler {name!r}"
    if hasattr(kind, "set_timesteps"):
        try:
            return kind.from_config(dict(given))
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error)
    message = (
        f"scheduler must be the configuration of a diffusers scheduler with its "
        f"_class_name ({reason}); SelfAttentionGuider.of(guidance, pipeline.scheduler) "
        f"fills it in"
    )
    raise ArgumentError(message)
