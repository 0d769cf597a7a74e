"""A loaded model with what its pictures need: pixels in, token grid out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnchain.capturing import TokenGrid
from attnchain.errors import GridError, ImageError, UnsupportedModelError
from attnchain.models.pictures import to_rgb
from attnchain.models.probes import ObjectProbe

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A vision transformer in evaluation mode, and how pictures enter it.

    Attributes:
        name: The name it was loaded by.
        note: One sentence on what the weights are; show it beside results.
        model: The module; call it with what `pixels` returns.
        patch_size: Side of a patch, in pixels.
        prefix: Tokens before the patches (class, registers, distillation).
        mean: Channel means of the model's training, for RGB in [0, 1].
        std: Channel standard deviations, likewise.
        probe: Tells objects from what is around them; None where none was fitted.
    """

    name: str
    note: str
    model: nn.Module
    patch_size: int
    prefix: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    probe: ObjectProbe | None = None

    def pixels(
        self, picture: "Image", *, size: int = 518
    ) -> Float[Tensor, "1 3 height width"]:
        """Turn a picture into the model's input, keeping its aspect ratio.

        The longer side becomes `size`; both sides are rounded to whole patches, at
        least one. Resizing is bicubic, with antialiasing where the picture shrinks.

        Args:
            picture: A Pillow picture; other modes than RGB are converted.
            size: Longer side in pixels.

        Returns:
            Normalised pixels on the model's device.

        Raises:
            ImageError: This is no Pillow picture, or its pixels have no defined range.
            GridError: The size is less than one patch.
        """
        from PIL import Image

        if not isinstance(picture, Image.Image):
            raise ImageError(
                f"expected a Pillow picture, got {type(picture).__name__}; "
                "read_picture(path) reads one from a file"
            )
        if size < self.patch_size:
            raise GridError(
                f"size must be at least one patch, {self.patch_size} pixels; got {size}"
            )
        scale = size / max(picture.size)
        width, height = (
            max(1, round(side * scale / self.patch_size)) * self.patch_size
            for side in picture.size
        )
        resized = to_rgb(picture).resize((width, height), Image.Resampling.BICUBIC)
        rgb = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return ((rgb - mean) / std)[None].to(next(self.model.parameters()).device)

    def grid(self, pixels: Float[Tensor, "*batch 3 height width"]) -> TokenGrid:
        """Return the layout of the tokens that these pixels become, rows first.

        Raises:
            GridError: The sides are not whole patches.
        """
        height, width = pixels.shape[-2:] if pixels.ndim == 4 else (1, 1)
        if height % self.patch_size or width % self.patch_size:
            raise GridError(
                f"pixels must be (1, 3, height, width) in multiples of "
                f"{self.patch_size}, got {tuple(pixels.shape)}"
            )
        return TokenGrid(
            height // self.patch_size, width // self.patch_size, prefix=self.prefix
        )


def layer_stack(model: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The layers of a transformer: its longest list of modules.

    Args:
        model: The module.

    Raises:
        UnsupportedModelError: There is none.
    """
    stacks = [
        m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)
    ]
    if not stacks:
        message = f"{type(model).__name__} has no stack of layers to read features from"
        raise UnsupportedModelError(message)
    return max(stacks, key=len)
