"""The degraded picture: from noisy latents to the clean one, blurred, and back."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attnchain.errors import ArgumentError, ShapeError, UnsupportedModelError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]

LEAST_SIGNAL = 2**-40
"""Below the signal of every step but a last one without any."""


@dataclass(frozen=True)
class NoiseLevel:
    r"""A latent $x_t = a\,x_0 + b\,\epsilon$, and what the network predicts from it.

    * "epsilon": $\epsilon$; "sample": $x_0$;
    * "v_prediction": $a\,\epsilon - b\,x_0$;
    * "flow_prediction": $\epsilon - x_0$, with $a = 1 - b$.

    Args:
        signal: a, at least 0; above 0 for "epsilon".
        noise: b, at least 0; above 0 for "sample".
        prediction: What the network predicts.

    Raises:
        ArgumentError: The prediction is unknown, or says nothing about the picture
            or the noise at this level; or the level is not finite.

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
            raise ArgumentError(message)
        if not math.isfinite(self.signal + self.noise):
            message = (
                f"signal and noise must be finite, but are {self.signal} and "
                f"{self.noise}; look at the scheduler's alphas_cumprod"
            )
            raise ArgumentError(message)
        needed = {"epsilon": self.signal, "sample": self.noise}.get(self.prediction, 1)
        if min(self.signal, self.noise) < 0 or needed == 0:
            message = (
                f"a network that predicts {self.prediction} cannot be guided at signal "
                f"{self.signal} and noise {self.noise}; start or stop at another step"
            )
            raise ArgumentError(message)

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
        kind: Any = getattr(config, "prediction_type", "epsilon")
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
        kept = _signal_share(cumulative.double(), time)
        return cls(kept**0.5, (1 - kept) ** 0.5, kind)

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


def _signal_share(cumulative: Tensor, time: float) -> float:
    """$a^2$ at a time; between two steps b / a is linear, as in diffusers' schedulers.

    With zero terminal signal the last step has a = 0, exactly; just before it b / a
    grows to a large number instead of infinity.
    """
    below = min(max(int(time), 0), len(cumulative) - 1)
    if time == below:
        return float(cumulative[below])
    above = min(below + 1, len(cumulative) - 1)
    ratio = (1 / cumulative[[below, above]].clamp_min(LEAST_SIGNAL) - 1).sqrt()
    return 1 / (1 + float(torch.lerp(ratio[0], ratio[1], time - below)) ** 2)


def gaussian_blur(
    pictures: Float[Tensor, "batch channels height width"], *, size: int, sigma: float
) -> Float[Tensor, "batch channels height width"]:
    """Pictures convolved with a Gaussian, mirrored at their borders.

    Args:
        pictures: Pictures or latents.
        size: Width of the kernel, odd.
        sigma: Standard deviation in pixels.

    Raises:
        ShapeError: The pictures are too small to be mirrored for this kernel.

    Example:
        >>> import torch
        >>> gaussian_blur(torch.ones(1, 1, 3, 3), size=3, sigma=1.0).mean()
        tensor(1.)
    """
    reach = size // 2
    if min(pictures.shape[-2:]) <= reach:
        message = (
            f"a blur of {size} pixels needs pictures of more than {reach} pixels a "
            f"side, but they are {tuple(pictures.shape[-2:])}; choose a smaller size"
        )
        raise ShapeError(message)
    offsets = torch.linspace(-reach, reach, size)
    bell = torch.exp(-0.5 * (offsets / sigma) ** 2)
    bell = (bell / bell.sum()).to(pictures)
    channels = pictures.shape[1]
    padded = functional.pad(pictures, (reach,) * 4, mode="reflect")
    across = bell.expand(channels, 1, 1, size)
    rows = functional.conv2d(padded, across, groups=channels)
    return functional.conv2d(rows, across.mT, groups=channels)


def blur_inside(
    pictures: Float[Tensor, "batch channels height width"],
    mask: Tensor,
    *,
    size: int,
    sigma: float,
) -> Float[Tensor, "batch channels height width"]:
    """Pictures blurred where a mask of token maps is true, unchanged elsewhere.

    Args:
        pictures: Pictures or latents.
        mask: Boolean `(batch, rows, columns)`, enlarged to the nearest pixel.
        size: Width of the kernel, odd.
        sigma: Standard deviation in pixels.

    Raises:
        ShapeError: The pictures are too small for this kernel.
    """
    amount = mask[:, None].to(pictures)
    inside = functional.interpolate(amount, pictures.shape[-2:])
    return torch.lerp(pictures, gaussian_blur(pictures, size=size, sigma=sigma), inside)
