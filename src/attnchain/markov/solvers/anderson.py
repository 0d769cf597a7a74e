"""Anderson acceleration of a fixed-point iteration, safeguarded."""

# pyright: reportUnknownMemberType=false

from typing import cast

import torch
from torch import Tensor

from attnchain.markov.solvers.equations import Equations

WINDOW = 20
"""Differences kept by Anderson acceleration."""
_PATIENCE = 30
"""Iterations without halving the residual before the method gives up."""


def accelerate(
    equations: Equations,
    x: Tensor,
    *,
    target: float,
    window: int,
    max_iterations: int,
) -> tuple[Tensor, int]:
    """Fixed-point iteration with Anderson acceleration; window 0 is the power method.

    Differences from the textbook: the step is plain when the residual more than
    doubled (the history is dropped), and the small least-squares problem is solved
    in float64 through its normal equations.

    Args:
        equations: What to solve.
        x: Start, (n,).
        target: L1 norm of the residual to reach.
        window: Number of differences kept.
        max_iterations: Products to spend at most.

    Returns:
        The last iterate and the number of products taken. The caller measures the
        residual of what it got.

    Sources:
        Walker and Ni, Anderson acceleration for fixed-point iterations, 2011.
    """
    steps: list[Tensor] = []
    images: list[Tensor] = []
    previous: tuple[Tensor, Tensor] | None = None
    best, since_best, last_norm = float("inf"), 0, float("inf")
    for iteration in range(1, max_iterations + 1):
        image = (equations.right + equations.mapped(x)) / equations.diagonal
        step = image - x
        norm = float((equations.diagonal * step).abs().sum(dtype=torch.float64))
        if norm <= target:
            return image, iteration
        best, since_best = (norm, 0) if norm < best / 2 else (best, since_best + 1)
        if window and since_best >= _PATIENCE:
            return image, iteration
        if previous is not None and window:
            steps = [*steps, step - previous[0]][-window:]
            images = [*images, image - previous[1]][-window:]
        if norm > 2 * last_norm:
            steps, images = [], []
        previous, last_norm = (step, image), norm
        x = _extrapolated(image, step, steps, images)
    return x, max_iterations


def _extrapolated(
    image: Tensor, step: Tensor, steps: list[Tensor], images: list[Tensor]
) -> Tensor:
    """The image minus the combination of differences that best cancels the step."""
    if not steps:
        return image
    differences = torch.stack(steps).double()
    gram = differences @ differences.T
    ridge = 1e-14 * gram.diagonal().max().clamp_min(torch.finfo(torch.float64).tiny)
    gram.diagonal().add_(ridge)
    right = differences @ step.double()
    solved = cast("tuple[Tensor, Tensor]", torch.linalg.solve_ex(gram, right))
    weights, info = solved
    if int(info) != 0 or not bool(torch.isfinite(weights).all()):
        return image
    return image - weights.to(image.dtype) @ torch.stack(images)
