"""What differs between denoisers: latents' layout, time units, sides of guidance."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnchain.capturing.denoising import GUIDED
from attnchain.errors import UnsupportedModelError

PACKED = "FluxTransformer2DModel"
PACKED_TIME = 1000.0
"""FLUX pipelines divide the time step by this before the network sees it."""


@dataclass(frozen=True)
class Run:
    """Arguments of one run of a denoiser, by name.

    Attributes:
        denoiser: The network.
        arguments: Everything it was given.
    """

    denoiser: nn.Module
    arguments: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        denoiser: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> "Run":
        """Names the arguments of a call, by the network's own signature."""
        bound = inspect.signature(forward).bind(*args, **kwargs).arguments
        return cls(denoiser, dict(bound.pop("kwargs", {})) | dict(bound))

    @property
    def _key(self) -> str:
        return "sample" if "sample" in self.arguments else "hidden_states"

    @property
    def is_packed(self) -> bool:
        """True where latents come as a sequence of 2 x 2 patches (FLUX)."""
        return type(self.denoiser).__name__ == PACKED

    @property
    def batch(self) -> int:
        """Number of latents."""
        return len(self.arguments[self._key])

    @property
    def size(self) -> tuple[int, ...]:
        """Rows and columns of the latents."""
        return tuple(self.to_picture(self.arguments[self._key]).shape[-2:])

    @property
    def latents(self) -> Tensor:
        """The network's input as pictures, (batch, channels, height, width)."""
        return self.to_picture(self.arguments[self._key])

    @property
    def time(self) -> float:
        """The time step, in the scheduler's units."""
        step = torch.as_tensor(self.arguments["timestep"]).flatten()[0]
        return float(step) * (PACKED_TIME if self.is_packed else 1.0)

    def to_picture(self, latents: Tensor) -> Tensor:
        """Unpacks latents that come as a sequence."""
        if not self.is_packed:
            return latents
        rows, columns = self._packed_size()
        blocks = latents.unflatten(1, (rows, columns)).unflatten(-1, (-1, 2, 2))
        return blocks.permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)

    def to_model(self, picture: Tensor) -> Tensor:
        """Packs pictures the way the network takes them."""
        if not self.is_packed:
            return picture
        blocks = picture.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))
        return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def _packed_size(self) -> tuple[int, int]:
        places = self.arguments["img_ids"]
        places = places[0] if places.ndim == 3 else places
        rows, columns = (int(places[:, axis].max()) + 1 for axis in (1, 2))
        return rows, columns

    def degraded(self, picture: Tensor, part: slice) -> dict[str, Any]:
        """Arguments for part of the batch, with other latents."""
        whole = part == slice(None)
        arguments = {
            name: value if whole else _part(value, part, self.batch)
            for name, value in self.arguments.items()
        }
        return arguments | {self._key: self.to_model(picture)}


def _part(value: Any, part: slice, batch: int) -> Any:
    """The rows of some pictures, in every tensor that has one row a picture."""
    if isinstance(value, Tensor) and value.ndim and len(value) == batch:
        return value[part]
    if isinstance(value, Mapping):
        return {name: _part(item, part, batch) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_part(item, part, batch) for item in value)
    return value


def unconditional_part(pipeline: Any, run: Run) -> slice:
    """Which part of the batch is steered: the unconditional half, or everything.

    A batch is in two halves when the pipeline says that it uses classifier-free
    guidance, or cannot say, and both halves hold the same latents.

    Raises:
        UnsupportedModelError: It is in two halves in an unknown order.
    """
    whole = slice(None)
    claims = getattr(pipeline, "do_classifier_free_guidance", None)
    if pipeline is None or claims is False or run.batch % 2:
        return whole
    first, second = run.latents.chunk(2)
    if not torch.equal(first, second):
        return whole
    kinds = [kind.__name__ for kind in type(pipeline).__mro__]
    order = next((GUIDED[kind] for kind in kinds if kind in GUIDED), None)
    if order is None:
        if claims is None:
            return whole
        message = (
            f"{type(pipeline).__name__} stacks both sides of classifier-free guidance "
            f"in an order that is not known; known are {', '.join(GUIDED)}"
        )
        raise UnsupportedModelError(message)
    half = run.batch // 2
    first_is_free = order[0] == "unconditional"
    return slice(0, half) if first_is_free else slice(half, None)


def split_variance(predicted: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The prediction itself, and learned variances that follow it in the channels.

    Raises:
        UnsupportedModelError: The network's input has channels that are no latents.
    """
    channels = latents.shape[1]
    if predicted.shape[1] not in (channels, 2 * channels):
        message = (
            f"the denoiser takes {channels} channels and predicts "
            f"{predicted.shape[1]}; guidance needs a prediction of its input, "
            f"with or without learned variances"
        )
        raise UnsupportedModelError(message)
    return predicted[:, :channels], predicted[:, channels:]
