"""How much noise a latent carries, and what a prediction says about it."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ShapeError, UnsupportedModelError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]


@dataclass(frozen=True)
class NoiseLevel:
    r"""A latent $x_t = a\,x_0 + b\,\epsilon$, and what the network predicts from it.

    * "epsilon": $\epsilon$; "sample": $x_0$;
    * "v_prediction": $a\,\epsilon - b\,x_0$;
    * "flow_prediction": $\epsilon - x_0$, with $a = 1 - b$.

    Args:
        signal: a, above 0.
        noise: b, above 0.
        prediction: What the network predicts.

    Raises:
        ShapeError: An amount is not above 0, or the prediction is unknown.

    Example:
        >>> import torch
        >>> level = NoiseLevel(0.6, 0.8, "epsilon")
        >>> clean, noise = level.split(torch.tensor([1.4]), torch.tensor([1.0]))
        >>> clean, noise
        (tensor([1.0000]), tensor([1.]))
    """

    signal: float
    noise: float
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            message = (
                f"prediction must be one of {get_args(Prediction)}, but is "
                f"{self.prediction!r}"
            )
            raise ShapeError(message)
        if not (self.signal > 0 and self.noise > 0):
            message = (
                f"a guided latent needs both signal and noise, but has {self.signal} "
                f"and {self.noise}; start or stop guidance at another step"
            )
            raise ShapeError(message)

    @classmethod
    def of(cls, scheduler: Any, time: float) -> "NoiseLevel":
        """The level at which a diffusers scheduler runs the network at a time step.

        The level is that of the network's input: schedulers that keep unscaled
        latents (Euler, LMS) scale them to unit variance before the network sees them.

        Args:
            scheduler: A diffusers scheduler.
            time: Time step in the scheduler's own units, whole or between two.

        Raises:
            UnsupportedModelError: The scheduler has neither `alphas_cumprod` nor a
                straight flow, or another kind of prediction.
        """
        config = scheduler.config
        kind = getattr(config, "prediction_type", "epsilon")
        name = type(scheduler).__name__
        if name.startswith("FlowMatch") or kind == "flow_prediction":
            noise = time / config.num_train_timesteps
            return cls(1 - noise, noise, "flow_prediction")
        cumulative = getattr(scheduler, "alphas_cumprod", None)
        if cumulative is None or kind not in get_args(Prediction):
            message = (
                f"guidance needs a scheduler with alphas_cumprod or a straight flow, "
                f"predicting one of {get_args(Prediction)}; {name} predicts {kind!r}"
            )
            raise UnsupportedModelError(message)
        square = _interpolated((1 / cumulative.double() - 1).sqrt(), time) ** 2
        return cls((1 + square) ** -0.5, (square / (1 + square)) ** 0.5, kind)

    def split(
        self, latents: Float[Tensor, "..."], predicted: Float[Tensor, "..."]
    ) -> tuple[Tensor, Tensor]:
        """The clean picture and the noise that a prediction implies."""
        a, b = self.signal, self.noise
        if self.prediction == "epsilon":
            return (latents - b * predicted) / a, predicted
        if self.prediction == "sample":
            return predicted, (latents - a * predicted) / b
        if self.prediction == "v_prediction":
            return a * latents - b * predicted, b * latents + a * predicted
        return latents - b * predicted, latents + a * predicted

    def join(
        self, clean: Float[Tensor, "..."], noise: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The noisy latents of a clean picture and its noise."""
        return self.signal * clean + self.noise * noise


def _interpolated(values: Tensor, time: float) -> float:
    """Values at a time between two steps, linear as in diffusers' schedulers."""
    below = min(max(int(time), 0), len(values) - 1)
    above = min(below + 1, len(values) - 1)
    return float(torch.lerp(values[below], values[above], time - below))
