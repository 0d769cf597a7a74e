"""The model: pictures to ordered tokens and back, from any prefix of them."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnchain.checks import check_floating, check_whole
from attnchain.errors import ArgumentError, ShapeError
from attnchain.nested.decoder import FlowDecoder
from attnchain.nested.encoder import ConceptEncoder
from attnchain.nested.prefixes import keep_prefix


@dataclass(frozen=True)
class NestedConfig:
    """Sizes of a model.

    Args:
        size: Rows and columns of a picture, in pixels.
        colors: Numbers in a pixel.
        patch: Rows and columns of a patch; divides `size`.
        tokens: K, concept tokens of a picture.
        channels: d, numbers in a token.
        width: Features inside the encoder; a multiple of `heads`.
        depth: Layers of the encoder.
        heads: Attention heads of a layer.
        hidden: Features inside the decoder.
        layers: Residual layers of the decoder.

    Raises:
        ArgumentError: A size is no whole number >= 1, or does not divide.
    """

    size: int = 28
    colors: int = 1
    patch: int = 7
    tokens: int = 8
    channels: int = 4
    width: int = 64
    depth: int = 2
    heads: int = 4
    hidden: int = 384
    layers: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_whole(value, name)
        for whole, part in (("size", "patch"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                message = (
                    f"{part} must divide {whole}, but {whole} is "
                    f"{getattr(self, whole)} and {part} is {getattr(self, part)}"
                )
                raise ArgumentError(message)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a picture."""
        return self.colors, self.size, self.size


class NestedTokens(nn.Module):
    """Ordered tokens of pictures, and pictures from a prefix of tokens.

    Tokens are not standardised as in the paper: of four channels that would leave two.

    Args:
        config: Sizes; by default those of Fashion-MNIST.

    Attributes:
        null: What stands in for a token that was not kept, one vector for each slot.

    Sources:
        Wen et al., arXiv 2503.08685.
    """

    def __init__(self, config: NestedConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or NestedConfig()
        side, pixels = c.size // c.patch, c.colors * c.patch**2
        self.encoder = ConceptEncoder(
            side**2,
            pixels,
            tokens=c.tokens,
            channels=c.channels,
            width=c.width,
            depth=c.depth,
            heads=c.heads,
        )
        total, condition = c.colors * c.size**2, c.tokens * c.channels
        self.decoder = FlowDecoder(total, condition, width=c.hidden, depth=c.layers)
        self.null = nn.Parameter(0.02 * torch.randn(c.tokens, c.channels))

    def encode(
        self, pictures: Float[Tensor, "b colors size size"]
    ) -> Float[Tensor, "b K d"]:
        """The tokens of pictures, most telling first.

        Args:
            pictures: Pixels in [-1, 1].

        Raises:
            ShapeError: Pictures of another size, or not of floating point.
            ArgumentError: A pixel is not finite, or outside [-1, 1].
        """
        self.check_pictures(pictures)
        c = self.config
        side = c.size // c.patch
        cut = pictures.unflatten(-1, (side, c.patch)).unflatten(-3, (side, c.patch))
        return self.encoder(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))

    def predict_mean(
        self, prefix: Float[Tensor, "b k d"]
    ) -> Float[Tensor, "b colors size size"]:
        """The mean picture given the first k tokens: blurred, least in squared error.

        Args:
            prefix: The first 0 to K tokens of each picture.

        Raises:
            ShapeError: More tokens than the model has, or of other channels.
            ArgumentError: A number is not finite.
        """
        condition = self._filled(prefix)
        nothing = condition.new_zeros(len(prefix), math.prod(self.config.shape))
        ends = condition.new_ones(len(prefix))
        return self.decoder(nothing, ends, condition).unflatten(1, self.config.shape)

    def decode(
        self, prefix: Float[Tensor, "b k d"], *, steps: int = 25, seed: int = 0
    ) -> Float[Tensor, "b colors size size"]:
        """One picture drawn from all those that have these first k tokens.

        Args:
            prefix: The first 0 to K tokens of each picture.
            steps: Euler steps from noise to picture.
            seed: Of the noise; the same seed gives the same picture.

        Raises:
            ShapeError: More tokens than the model has, or of other channels.
            ArgumentError: A number is not finite, or no whole number of steps.
        """
        check_whole(steps, "steps")
        check_whole(seed, "seed", least=0)
        condition = self._filled(prefix)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((len(prefix), *self.config.shape), generator=generator)
        flat = noise.flatten(1).to(condition)
        drawn = self.decoder.sample(flat, condition, steps)
        return drawn.unflatten(1, self.config.shape)

    def errors(
        self,
        pictures: Float[Tensor, "b colors size size"],
        keep: int | Int[Tensor, " b"],
        t: Float[Tensor, " b"],
        noise: Float[Tensor, "b colors size size"],
    ) -> Float[Tensor, " b"]:
        r"""Mean over pixels of $(x - \hat x)^2$, for each picture.

        That is $t^2$ times the squared error of the flow's velocity: what is learned.

        Args:
            pictures: x, pixels in [-1, 1].
            keep: How many leading tokens the decoder sees.
            t: Share of noise.
            noise: $\epsilon$.
        """
        tokens = keep_prefix(self.encode(pictures), keep, self.null)
        amount = t[:, None, None, None]
        noisy = (1 - amount) * pictures + amount * noise
        found = self.decoder(noisy.flatten(1), t, tokens.flatten(1))
        return (found - pictures.flatten(1)).square().mean(1)

    def save(self, file: str | Path) -> None:
        """Writes weights and sizes as safetensors."""
        from safetensors.torch import save_file

        told = {"config": json.dumps(asdict(self.config))}
        save_file(self.state_dict(), file, metadata=told)

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ArgumentError: The file does not hold such a model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                sizes = json.loads((opened.metadata() or {})["config"])
                model = cls(NestedConfig(**sizes))
                weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            model.load_state_dict(weights)
        except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise ArgumentError(f"{file} holds no nested tokens: {error}") from error
        return model.eval()

    def check_pictures(self, pictures: Tensor) -> None:
        """Raises unless the argument is a batch of pictures of this model's size."""
        check_floating(pictures, "pictures")
        if pictures.ndim != 4 or pictures.shape[1:] != self.config.shape:
            message = (
                f"pictures must be (pictures, {', '.join(map(str, self.config.shape))})"
                f", but have shape {tuple(pictures.shape)}; resize them first"
            )
            raise ShapeError(message)
        if pictures.numel() and not float(pictures.abs().max()) <= 1:
            message = (
                "pixels must be finite and lie in [-1, 1], but reach from "
                f"{float(pictures.min()):g} to {float(pictures.max()):g}; use "
                "pixels / 127.5 - 1"
            )
            raise ArgumentError(message)

    def _filled(self, prefix: Tensor) -> Tensor:
        """A prefix with null vectors in the slots that it leaves, flat."""
        check_floating(prefix, "prefix")
        count, channels = self.null.shape
        fits = prefix.ndim == 3 and prefix.shape[2] == channels
        if not fits or prefix.shape[1] > count:
            message = (
                f"prefix must be (pictures, 0 to {count} tokens, {channels} channels), "
                f"but has shape {tuple(prefix.shape)}"
            )
            raise ShapeError(message)
        if not bool(prefix.isfinite().all()):
            raise ArgumentError(
                "prefix must be finite, but some of its numbers are not"
            )
        missing = self.null[prefix.shape[1] :].expand(len(prefix), -1, -1)
        return torch.cat([prefix.to(missing), missing], 1).flatten(1)
