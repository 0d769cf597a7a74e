"""What is known about chains: heads compared, eigenvalues on the unit disc."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Complex, Float
from torch import Tensor

from attnchain.plot.planes import MAP_COLORS, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_heads(
    lambda2: Float[Tensor, "layers heads"],
    layers: tuple[int, ...],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draws the second eigenvalue of every head, layers down, heads across.

    Args:
        lambda2: abs(lambda_2) of every head.
        layers: Layer numbers, for the axis.
        ax: Axes to draw into; new ones by default.

    Returns:
        The axes.
    """
    ax = ax or new_axes()
    values = lambda2.detach().cpu().numpy()
    image = ax.imshow(values, cmap=MAP_COLORS, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        color = "black" if value > 0.6 else "white"
        text = f"{value:.3f}" if value > 0.99 else f"{value:.2f}"
        ax.text(
            column, row, text, ha="center", va="center", color=color, fontsize="small"
        )
    ax.set_xticks(range(values.shape[1]))
    ax.set_yticks(range(values.shape[0]), [str(layer) for layer in layers])
    ax.set_xlabel("head")
    ax.set_ylabel("layer, counted from 0")
    ax.set_title("How metastable each head is", fontsize="medium")
    label = "|λ₂|: 0 forgets at once, 1 never"
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def plot_spectrum(
    eigenvalues: Complex[Tensor, " k"], *, ax: "Axes | None" = None
) -> "Axes":
    """Draws eigenvalues of one chain in the complex plane, with the unit circle.

    Args:
        eigenvalues: Those of one chain, as `spectrum` returns them.
        ax: Axes to draw into; new ones by default.

    Returns:
        The axes.
    """
    ax = ax or new_axes()
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(turn), np.sin(turn), color="0.7", linewidth=1)
    points = eigenvalues.detach().cpu()
    ax.scatter(
        points.real.numpy(), points.imag.numpy(), s=24, color="#0072B2", zorder=2
    )
    ax.set_aspect("equal")
    ax.set_xlabel("real part")
    ax.set_ylabel("imaginary part")
    ax.set_title("Leading eigenvalues", fontsize="medium")
    return ax
