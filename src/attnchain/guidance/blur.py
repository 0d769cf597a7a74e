"""The degraded picture: blurred where a mask says so."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attnchain.errors import ShapeError


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
