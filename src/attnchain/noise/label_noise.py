"""The transition between clean and noisy labels, and what training asks of it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnchain.checks import check_count, check_floating, check_number
from attnchain.errors import NotStochasticError, ShapeError


class NoiseTransition(nn.Module):
    r"""A learned row-stochastic matrix whose diagonal is the largest of each row.

    $T = \mathrm{diag}(U \mathbf 1)^{-1} U$ with $U = I + \sigma(w)\,(1 - I)$: entries
    off the diagonal of U lie in (0, 1), those on it are one. T[i, j] is the
    probability of the noisy label j where the clean one is i.

    Args:
        n_classes: Number of classes, at least 2.
        start: Where every weight w starts; -2 gives a diagonal of 1 / (1 + .12 (c-1)).

    Raises:
        ArgumentError: Fewer than two classes, or `start` is no number.

    Sources:
        Li et al., Provably end-to-end label-noise learning without anchor points,
        ICML 2021, arXiv 2102.02400.

    Example:
        >>> NoiseTransition(2, start=0.0)()
        tensor([[0.6667, 0.3333],
                [0.3333, 0.6667]], grad_fn=<DivBackward0>)
    """

    def __init__(self, n_classes: int, start: float = -2.0) -> None:
        super().__init__()
        check_count(n_classes, "n_classes", low=2, high=100_000, meaning="classes")
        check_number(start, "start")
        self.weight = nn.Parameter(torch.full((n_classes, n_classes), float(start)))

    def forward(self) -> Float[Tensor, "c c"]:
        """The matrix T."""
        own = torch.eye(len(self.weight), device=self.weight.device)
        raw = own + self.weight.sigmoid() * (1 - own)
        return raw / raw.sum(-1, keepdim=True)


def log_volume(transition: Float[Tensor, "c c"]) -> Float[Tensor, ""]:
    r"""$\ln \det T$, the logarithm of the volume that the rows of T span.

    The volume of the simplex of the rows is $\det T$ up to a factor of the number of
    classes. A determinant of zero or below is refused: from there on a smaller
    absolute value would mean labels that have changed places.

    Args:
        transition: A square matrix.

    Returns:
        A number, at most 0 for a stochastic matrix; differentiable.

    Raises:
        ShapeError: The matrix is not square.
        NotStochasticError: Its determinant is not above zero.

    Example:
        >>> float(log_volume(torch.tensor([[0.75, 0.25], [0.25, 0.75]])).exp())
        0.5
    """
    check_floating(transition, "transition")
    shape = tuple(transition.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        message = f"transition must be (classes, classes), but has shape {shape}"
        raise ShapeError(message)
    sign, logarithm = torch.linalg.slogdet(transition)
    if not float(sign.detach()) > 0:
        message = (
            f"the transition between labels has a determinant with sign "
            f"{float(sign.detach()):g}, so its classes have changed places or merged; "
            f"use a smaller volume_weight, or fewer classes"
        )
        raise NotStochasticError(message)
    return logarithm


def noisy_label_loss(
    logits: Float[Tensor, "m c"],
    transition: Float[Tensor, "c c"],
    labels: Int[Tensor, " m"],
    *,
    volume_weight: float = 0.0,
) -> Float[Tensor, ""]:
    r"""$-\frac1m \sum_x \ln (\mathrm{softmax}(f(x))\,T)_{y} + \lambda \ln\det T$.

    Args:
        logits: Scores f(x) of the clean classes.
        transition: T, from clean to noisy labels.
        labels: Noisy labels y.
        volume_weight: $\lambda$ in nats; 0 leaves the volume out.

    Returns:
        The mean loss in nats.

    Raises:
        NotStochasticError: With a volume, where T's determinant is not above zero.
    """
    noisy = logits.softmax(-1) @ transition
    tiny = torch.finfo(noisy.dtype).tiny
    chosen = noisy.gather(-1, labels[:, None]).clamp_min(tiny)
    loss = -chosen.log().mean()
    if volume_weight:
        loss = loss + volume_weight * log_volume(transition)
    return loss


def transition_error(
    estimate: Float[Tensor, "c c"], true: Float[Tensor, "c c"]
) -> float:
    r"""$\|\hat T - T\|_1 / \|T\|_1$, sums of absolute entries: at most 2.

    Args:
        estimate: The matrix that was found.
        true: The matrix that made the labels.

    Raises:
        ShapeError: The matrices differ in shape.

    Example:
        >>> transition_error(torch.eye(2), torch.full((2, 2), 0.5))
        1.0
    """
    if estimate.shape != true.shape:
        message = (
            f"both transitions must have one shape, but have {tuple(estimate.shape)} "
            f"and {tuple(true.shape)}"
        )
        raise ShapeError(message)
    wide = true.double()
    return float((estimate.double() - wide).abs().sum() / wide.abs().sum())
