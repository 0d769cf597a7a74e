"""Which heads count how much: weights over heads and layers, and their mixture."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from attnchain.checks import check_choice, check_number
from attnchain.errors import ArgumentError
from attnchain.markov.lambda2 import second_eigenvalue
from attnchain.operators import AbstractTransition, Mixture, check_transition


def mix(
    transitions: AbstractTransition | Sequence[AbstractTransition],
    weights: Literal["lambda2", "uniform"] | Tensor | Sequence[Tensor] = "lambda2",
    *,
    lambda2: Sequence[Tensor] | None = None,
    exponent: float = 1.0,
) -> Mixture:
    r"""One chain out of many heads: $\bar P = \sum_h w_h P_h$.

    With "lambda2", $w_h = |\lambda_{2,h}|^p / \sum_g |\lambda_{2,g}|^p$, so heads with
    metastable sets count more. Heads are mixed first and propagated afterwards; that
    is not the mean of propagated heads.

    Args:
        transitions: A batch of chains, or several batches (layers) over the same
            states. Remove special tokens before, and do not damp: damping scales
            all lambda_2 alike.
        weights: "lambda2", "uniform", or tensors shaped like the batches, sum one.
        lambda2: Moduli of the second eigenvalues, shaped like the batches, where they
            are known; solved for when not given.
        exponent: The p above; 0 is uniform, large p picks the slowest heads.

    Returns:
        The mixture of all chains of all batches.

    Raises:
        ArgumentError: Unknown weights, no finite exponent, or every lambda_2 is zero
            (a modulus no larger than its error estimate counts as zero).
        ShapeError: Nothing to mix, states that differ, or moduli of other batches.
        NotStochasticError: Given weights are not a distribution.
        ConvergenceError: A head's lambda_2 could not be found.

    Sources:
        arXiv 2507.17657 averages heads with lambda_2 weights; the exact map from
        eigenvalue to weight is not published. The plain ratio is our choice, and
        the exponent leaves it open.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> slow, fast = torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.full((2, 2), 0.5)
        >>> mix(as_transition(torch.stack([slow, fast]))).to_dense()
        tensor([[0.9000, 0.1000],
                [0.1000, 0.9000]])
    """
    check_number(exponent, "exponent")
    layers = _as_layers(transitions)
    if isinstance(weights, Tensor):
        return Mixture(layers, [weights])
    if not isinstance(weights, str):
        return Mixture(layers, list(weights))
    check_choice(weights, ("lambda2", "uniform"), "weights")
    if weights == "uniform":
        lambda2, exponent = [_ones(layer) for layer in layers], 0
    elif lambda2 is None:
        lambda2 = [_known_moduli(layer) for layer in layers]
    raw = [modulus.double() ** exponent for modulus in lambda2 or ()]
    return _shared(layers, raw)


def _as_layers(
    transitions: AbstractTransition | Sequence[AbstractTransition],
) -> list[AbstractTransition]:
    if isinstance(transitions, Iterable):
        return list(transitions)
    check_transition(transitions, "transitions")
    return [transitions]


def _known_moduli(layer: AbstractTransition) -> Tensor:
    """Moduli of the second eigenvalues; one within its error of zero is zero."""
    found = second_eigenvalue(layer)
    return found.modulus.where(found.modulus > found.error_estimate, 0)


def _ones(layer: AbstractTransition) -> Tensor:
    return torch.ones(layer.batch_shape, dtype=torch.float64, device=layer.device)


def _shared(layers: list[AbstractTransition], raw: list[Tensor]) -> Mixture:
    """The mixture with weights in proportion to these."""
    total = sum(float(part.sum()) for part in raw)
    if raw and total == 0:
        message = "every head forgets its start at once (lambda_2 = 0): use 'uniform'"
        raise ArgumentError(message)
    return Mixture(layers, [part / total for part in raw])
