"""What differs between denoisers: latents' layout, time units, sides of guidance."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnchain.capturing import GUIDED, UNCONDITIONAL_FIRST
from attnchain.errors import UnsupportedModelError
from attnchain.guidance.reader import uncompiled

PACKED = "FluxTransformer2DModel"
REVERSED = "Lumina2Transformer2DModel"
"""Its time runs from 0 (noise) to 1 (picture), and its velocity towards the picture."""
ONE_BY_ONE = "Lumina2Pipeline"
"""It runs the conditional side first, then the unconditional one at the same time."""
LATENTS = ("sample", "hidden_states")
TIMES = 1000.0
"""Pipelines of FLUX and Lumina divide the time step by this for the network."""
ORDERS = GUIDED | {"StableDiffusionImg2ImgPipeline": UNCONDITIONAL_FIRST}


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
        cls, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "Run":
        """Names the arguments of a call, by the signature of the network's class.

        Raises:
            UnsupportedModelError: There are no latents or no time step among them.
        """
        network = uncompiled(denoiser)
        signature = inspect.signature(type(network).forward)
        _, *given = signature.bind(network, *args, **kwargs).arguments.items()
        bound = dict(given)
        arguments = bound.pop("kwargs", {}) | bound
        if "timestep" not in arguments or not arguments.keys() & LATENTS:
            message = (
                f"{type(network).__name__} was called with {', '.join(arguments)}; "
                f"guidance needs a denoiser that names its timestep and its latents "
                f"({' or '.join(LATENTS)}), so give it the network inside"
            )
            raise UnsupportedModelError(message)
        return cls(network, arguments)

    @property
    def _key(self) -> str:
        return "sample" if "sample" in self.arguments else "hidden_states"

    @property
    def is_packed(self) -> bool:
        """True where latents come as a sequence of 2 x 2 patches (FLUX)."""
        return type(self.denoiser).__name__ == PACKED

    @property
    def is_reversed(self) -> bool:
        """True where time and velocity run from noise to picture (Lumina 2)."""
        return type(self.denoiser).__name__ == REVERSED

    @property
    def batch(self) -> int:
        """Number of latents."""
        return len(self.arguments[self._key])

    @property
    def size(self) -> tuple[int, ...]:
        """Rows and columns of the latents."""
        return tuple(self.to_picture(self.arguments[self._key]).shape[-2:])

    @property
    def is_doubled(self) -> bool:
        """Whether the batch is the same latents twice, as for classifier-free guidance.

        Without guidance a DiT may get the same seed twice, but then its second half is
        not of the class that stands for none.
        """
        first, *second = self.latents.chunk(2)
        if not second or not torch.equal(first, second[0]):
            return False
        labels = self.arguments.get("class_labels")
        if labels is None:
            return True
        none: Any = getattr(self.denoiser.config, "num_embeds_ada_norm", None)
        return bool((labels[len(first) :] == none).all())

    @property
    def latents(self) -> Tensor:
        """The network's input as pictures, (batch, channels, height, width)."""
        return self.to_picture(self.arguments[self._key])

    @property
    def time(self) -> float:
        """The time step, in the scheduler's units."""
        step = torch.as_tensor(self.arguments["timestep"]).flatten()[0]
        if self.is_reversed:
            return (1 - float(step)) * TIMES
        return float(step) * (TIMES if self.is_packed else 1.0)

    def prediction(self, output: Tensor) -> Tensor:
        """What the scheduler takes the network's output for, as pictures."""
        return self.to_picture(-output if self.is_reversed else output)

    def output(self, predicted: Tensor) -> Tensor:
        """The network's output that stands for a prediction."""
        given = self.to_model(predicted)
        return -given if self.is_reversed else given

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


def is_one_by_one(pipeline: Any) -> bool:
    """Whether both sides of guidance are runs of their own, the unconditional last."""
    kinds = [kind.__name__ for kind in type(pipeline).__mro__]
    return ONE_BY_ONE in kinds and pipeline.do_classifier_free_guidance


def unconditional_part(pipeline: Any, run: Run) -> slice:
    """Which part of the batch is steered: the unconditional half, or everything.

    A batch is in two halves when the pipeline says that it uses classifier-free
    guidance, or cannot say, and both halves hold the same latents.

    Raises:
        UnsupportedModelError: It is in two halves in an unknown order, or guidance of
            another kind runs too.
    """
    whole = slice(None)
    if is_one_by_one(pipeline):
        return whole
    claims = getattr(pipeline, "do_classifier_free_guidance", None)
    _check_alone(pipeline, run, claims=bool(claims))
    if pipeline is None or (claims is not None and not claims) or not run.is_doubled:
        return whole
    kinds = [kind.__name__ for kind in type(pipeline).__mro__]
    order = next((ORDERS[kind] for kind in kinds if kind in ORDERS), None)
    if order is None:
        if claims is None:
            return whole
        message = (
            f"{type(pipeline).__name__} stacks both sides of classifier-free guidance "
            f"in an order that is not known; switch it off (guidance_scale=1), or use "
            f"one of {', '.join(ORDERS)}"
        )
        raise UnsupportedModelError(message)
    half = run.batch // 2
    first_is_free = order[0] == "unconditional"
    return slice(0, half) if first_is_free else slice(half, None)


def _check_alone(pipeline: Any, run: Run, *, claims: bool) -> None:
    """Raises where a pipeline runs guidance of another kind at the same time."""
    name = type(pipeline).__name__
    if run.arguments.get("skip_layers") is not None:
        message = (
            f"{name} runs skip-layer guidance, which cannot be steered together with "
            f"this one; switch it off (skip_guidance_layers=None)"
        )
        raise UnsupportedModelError(message)
    perturbed = getattr(pipeline, "do_perturbed_attention_guidance", False)
    if perturbed or (claims and not run.is_doubled):
        message = (
            f"{name} gave the denoiser {run.batch} latents that are not two equal "
            f"halves, so the sides of its guidance are not known; switch off what it "
            f"adds to classifier-free guidance (pag_scale=0), or both of them"
        )
        raise UnsupportedModelError(message)


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
            f"with or without learned variances, so use a model whose input is the "
            f"latents alone (no inpainting model)"
        )
        raise UnsupportedModelError(message)
    return predicted[:, :channels], predicted[:, channels:]
