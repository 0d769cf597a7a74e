"""Experiment: chains whose steps count by how alike the features of two tokens are.

It won by less than 0.01 IoU where it was chosen and lost where it was reported, see
docs/negative-results.md; no method applies it by itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_finite, check_floating, check_number
from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators import AbstractTransition, DenseTransition


def gated(
    chain: AbstractTransition,
    features: Float[Tensor, "n width"],
    threshold: float = 0.3,
) -> DenseTransition:
    r"""A chain whose steps count by how alike the two tokens are.

    $P'_{ij} \propto P_{ij} \max(0, \cos(f_i, f_j) - t)$, rows renormalised: a walker
    goes where attention leads, but not to tokens with other features, so that many
    bounces stay within an object. A token that loses all its steps stays in place.

    Args:
        chain: One chain; its matrix is stored.
        features: One row for each state, for example a layer's output.
        threshold: t, the cosine at and below which a step is dropped.

    Returns:
        The gated chain.

    Raises:
        ShapeError: A batch, or features of other states.
        ArgumentError: A threshold outside [-1, 1).
        NotStochasticError: Features are infinite or not numbers.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.full((3, 3), 1 / 3))
        >>> gated(chain, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])).to_dense()
        tensor([[0.5000, 0.5000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    _check(chain, features, threshold)
    unit = torch.nn.functional.normalize(features, dim=-1)
    alike = (unit @ unit.mT - threshold).clamp_min(0)
    steps = chain.to_dense() * alike.to(chain.dtype)
    sums = steps.sum(-1, keepdim=True)
    if not bool((sums > 0).all()):
        stay = torch.eye(len(steps)).to(steps)
        steps = torch.where(sums > 0, steps, stay)
        sums = steps.sum(-1, keepdim=True)
    return DenseTransition(steps / sums)


def _check(chain: AbstractTransition, features: Tensor, threshold: float) -> None:
    check_floating(features, "features")
    check_finite(features, "features")
    check_number(threshold, "threshold")
    if not -1 <= threshold < 1:
        raise ArgumentError(f"threshold must lie in [-1, 1), but is {threshold!r}")
    fits = features.ndim == 2 and len(features) == chain.n_states
    if chain.batch_shape or not fits:
        message = (
            "gated takes one chain and a row of features for each of its states, but "
            f"got {chain!r} and features of shape {tuple(features.shape)}"
        )
        raise ShapeError(message)
