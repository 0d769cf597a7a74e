"""A linear probe that says how much of a patch lies on an object."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from attnchain.errors import (
    ArgumentError,
    ModelNotFoundError,
    OutputError,
    ShapeError,
)
from attnchain.models.bundled import own_path


@dataclass(frozen=True, eq=False)
class ObjectProbe:
    r"""A linear probe of objectness: the share of a patch that lies on some object.

    $o = \mathrm{clip}(b + \sum_l w_l \cdot x_l / |x_l|,\ 0,\ 1)$, with $x_l$ the state
    of the patch that layer l reads. It is fitted on masks (`vision.fit_probe`), so what
    it says is not free of training, unlike all that is read from the chains alone.

    Attributes:
        layers: Layers l, counted from 0.
        weights: w, a row for each layer.
        constant: b.
        note: What it was fitted on, in one sentence.

    Sources:
        Alain and Bengio, Understanding intermediate layers using linear classifier
        probes, arXiv 1610.01644; Alexe et al., What is an object?, CVPR 2010.
    """

    layers: tuple[int, ...]
    weights: Float[Tensor, "layers width"]
    constant: float
    note: str

    def __post_init__(self) -> None:
        rows = self.weights.shape[0] if self.weights.ndim == 2 else 0
        if not rows or rows != len(self.layers):
            message = (
                f"expected a row of weights for each of {len(self.layers)} layers, but "
                f"got weights of shape {tuple(self.weights.shape)}"
            )
            raise ShapeError(message)
        whole = all(isinstance(layer, int) and layer >= 0 for layer in self.layers)
        if not whole or len(set(self.layers)) < rows:
            message = f"layers are different numbers from 0 on, but are {self.layers!r}"
            raise ArgumentError(message)
        if not (self.weights.isfinite().all() and math.isfinite(self.constant)):
            raise ArgumentError("the weights of a probe must be finite numbers")

    def __call__(
        self, states: Sequence[Float[Tensor, "n width"]]
    ) -> Float[Tensor, " n"]:
        """Objectness of every patch, in [0, 1].

        Args:
            states: What each of the layers reads, in their order.

        Raises:
            ShapeError: They are not as many, or not as wide, as the weights.
        """
        widths = [state.shape[-1] for state in states]
        if widths != [self.weights.shape[1]] * len(self.layers):
            message = (
                f"the probe reads states of width {self.weights.shape[1]} of layers "
                f"{', '.join(map(str, self.layers))}, but got widths {widths}; fit one "
                "for this model with attnchain.vision.fit_probe"
            )
            raise ShapeError(message)
        weights = self.weights.to(states[0])
        told = [normalize(x, dim=-1) @ w for x, w in zip(states, weights, strict=True)]
        return (torch.stack(told).sum(0) + self.constant).clamp(0, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the probe as safetensors.

        Args:
            path: The file.

        Raises:
            OutputError: It cannot be written.
        """
        from safetensors.torch import save

        tensors = {
            "layers": torch.tensor(self.layers),
            "weights": self.weights.contiguous(),
            "constant": torch.tensor([self.constant], dtype=torch.float64),
        }
        try:
            Path(path).write_bytes(save(tensors, metadata={"note": self.note}))
        except OSError as error:
            raise OutputError(f"cannot write {path} ({error.strerror})") from error


def read_probe(path: str | os.PathLike[str]) -> ObjectProbe:
    """Reads what `ObjectProbe.save` wrote.

    Args:
        path: The file.

    Raises:
        ModelNotFoundError: It is missing, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return ObjectProbe(
                layers=tuple(file.get_tensor("layers").tolist()),
                weights=file.get_tensor("weights"),
                constant=file.get_tensor("constant").item(),
                note=file.metadata()["note"],
            )
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}") from error
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        message = f"{path} holds no probe that attnchain wrote ({error})"
        raise ModelNotFoundError(message) from error


def bundled_probe(name: str) -> ObjectProbe:
    """The probe of a packaged model, out of this package.

    Args:
        name: What the model is loaded by.

    Raises:
        ModelNotFoundError: This installation has it not.
    """
    return read_probe(own_path(f"object_probes/{name}.safetensors", of=name))
