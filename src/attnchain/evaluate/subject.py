"""What every method of an evaluation gets: the same attention and features."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnchain.errors import UnsupportedModelError
from attnchain.markov import mix
from attnchain.methods import similarity
from attnchain.models import layer_stack
from attnchain.operators import DenseTransition, forward_backward
from attnchain.vision import PictureAttention, read_attention

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.models import LoadedModel

Weights = Literal["lambda2", "uniform"]
Layers = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """One picture as a model sees it: read once, used by all methods.

    Attributes:
        attention: Attention among the patches, all layers.
        features: State of the patches after each layer, `(n, width)`.
    """

    attention: PictureAttention
    features: tuple[Float[Tensor, "n width"], ...]
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    def class_row(self, layer: int) -> Float[Tensor, " n"]:
        """Where the class token of a layer looks, mean of its heads.

        Raises:
            UnsupportedModelError: The model has no class token.
        """
        if not self.attention.class_rows:
            message = f"{self.attention.model_name} has no class token"
            raise UnsupportedModelError(message)
        return self.attention.class_rows[layer].mean(0)

    def chain(self, layers: Layers, weights: Weights = "uniform") -> DenseTransition:
        """The mixture of all heads of some layers, as `attnchain.mix` defines it."""
        return self.once(("chain", layers, weights), self._mixed, layers, weights)

    def out_and_back(self, layers: Layers, weights: Weights) -> DenseTransition:
        """One step along the chain of some layers and one back."""
        return self.once(("back", layers, weights), self._back, layers, weights)

    def cosines(self, layer: int) -> Float[Tensor, "n n"]:
        """Cosines between the features after a layer."""
        return self.once(("cosines", layer), similarity, self.features[layer])

    def part(self, layers: Layers) -> PictureAttention:
        """The attention of some layers only, as `attnchain.vision` takes it."""
        return self.once(("part", layers), self._part, layers)

    def _part(self, layers: Layers) -> PictureAttention:
        whole = self.attention
        return replace(
            whole,
            layers=tuple(whole.layers[i] for i in layers),
            heads=tuple(whole.heads[i] for i in layers),
            class_rows=tuple(whole.class_rows[i] for i in layers if whole.class_rows),
            features=self.features[layers[-1] - 1] if layers[-1] else None,
        )

    def once(self, key: tuple[Any, ...], make: Callable[..., Any], *args: Any) -> Any:
        """What `make(*args)` returned the first time it was asked for by this key."""
        if key not in self._kept:
            self._kept[key] = make(*args)
        return self._kept[key]

    def _mixed(self, layers: Layers, weights: Weights) -> DenseTransition:
        """The mixture of the layers' own ones, each as much as its heads together."""
        chains = [
            self.once(("layer", i, weights), self._layer, i, weights) for i in layers
        ]
        sums = [self._moduli(i, weights).sum() for i in layers]
        return DenseTransition(mix(chains, lambda2=sums).to_dense())

    def _back(self, layers: Layers, weights: Weights) -> DenseTransition:
        both = forward_backward(self.chain(layers, weights)).to_dense()
        return DenseTransition(both, atol=1e-4)

    def _layer(self, layer: int, weights: Weights) -> DenseTransition:
        heads, known = self.attention.heads[layer], [self._moduli(layer, weights)]
        return DenseTransition(mix(heads, lambda2=known).to_dense())

    def _moduli(self, layer: int, weights: Weights) -> Float[Tensor, " heads"]:
        """What the heads of a layer count: their lambda_2, or one and all alike."""
        if weights == "uniform":
            return torch.ones(self.attention.heads[layer].batch_shape)
        return self.part((layer,)).lambda2[0]


def read_subject(picture: "Image", model: "LoadedModel", *, size: int) -> Subject:
    """Runs a model on a picture once, and keeps attention and features.

    Args:
        picture: A Pillow picture.
        model: What `attnchain.models.load` returned.
        size: Longer side the picture is resized to, in pixels.

    Raises:
        UnsupportedModelError: The model's layers are not to be found.
        GridError: The picture becomes a single patch.
    """
    with watched_layers(model.model) as states:
        attention = read_attention(picture, model, size=size)
    first, n = model.prefix, attention.grid.n_patches
    patches = tuple(state[0, first : first + n] for state in states)
    return Subject(attention, patches)


@contextmanager
def watched_layers(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the state after each layer while the model runs in the block.

    Raises:
        UnsupportedModelError: The model's layers are not to be found.
    """
    layers, states = layer_stack(model), []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        states.append(state.detach().float())

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
