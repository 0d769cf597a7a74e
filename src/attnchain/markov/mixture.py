"""Which heads count how much: weights over heads and layers, and their mixture."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from attnchain.checks import check_choice, check_number
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov.lambda2 import second_eigenvalue
from attnchain.operators import (
    AbstractTransition,
    Mixture,
    Stacked,
    check_transition,
)

AVERAGED = ("layer", "head")
"""Names of axes that are mixed; those of others are kept."""
_Mixing = Callable[[list[AbstractTransition], list[Tensor]], Mixture]


def mix(
    transitions: AbstractTransition | Sequence[AbstractTransition],
    weights: Literal["lambda2", "uniform"] | Tensor | Sequence[Tensor] = "lambda2",
    *,
    lambda2: Sequence[Tensor] | None = None,
    exponent: float = 1.0,
) -> AbstractTransition:
    r"""One chain out of many heads: $\bar P = \sum_h w_h P_h$.

    With "lambda2", $w_h = |\lambda_{2,h}|^p / \sum_g |\lambda_{2,g}|^p$, so heads with
    metastable sets count more. Heads are mixed first and propagated afterwards; that
    is not the mean of propagated heads.

    Only heads and layers are mixed: chains whose `axes` name others, as captured
    attention ("input", "head"), give one mixture for each. Without names all are mixed.

    Args:
        transitions: A batch of chains, or several batches (layers) over the same
            states. Remove special tokens before, and do not damp: damping scales
            all lambda_2 alike.
        weights: "lambda2", "uniform", or tensors shaped like the batches, sum one.
        lambda2: Moduli of the second eigenvalues, shaped like the batches, where they
            are known; solved for when not given.
        exponent: The p above; 0 is uniform, large p picks the slowest heads.

    Returns:
        `Mixture` of all chains of all batches; `Stacked`, with an axis for the inputs,
        where one is named, and where there is padding.

    Raises:
        ArgumentError: Nothing to mix, unknown weights, no finite exponent, or every
            lambda_2 is zero (no larger than its error estimate).
        ShapeError: States that differ (texts without named axes, too), or weights or
            moduli of other batches.
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
    if isinstance(weights, str):
        return _mixed(layers, _raw(layers, weights, lambda2, exponent), _shared)
    given = [weights] if isinstance(weights, Tensor) else list(weights)
    return _mixed(layers, given, Mixture)


def _as_layers(
    transitions: AbstractTransition | Sequence[AbstractTransition],
) -> list[AbstractTransition]:
    if isinstance(transitions, AbstractTransition):
        return [transitions]
    if not isinstance(cast("object", transitions), Iterable):
        check_transition(transitions, "transitions")
    return list(transitions)


def _raw(
    layers: list[AbstractTransition],
    weights: str,
    lambda2: Sequence[Tensor] | None,
    exponent: float,
) -> list[Tensor]:
    """Weights before they are divided by their sum."""
    check_choice(weights, ("lambda2", "uniform"), "weights")
    if weights == "uniform":
        return [_ones(layer) for layer in layers]
    if lambda2 is None:
        lambda2 = [_known_moduli(layer) for layer in layers]
    return [part.double() ** exponent for part in lambda2]


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


def _mixed(
    layers: list[AbstractTransition], weights: list[Tensor], mixture: _Mixing
) -> AbstractTransition:
    """The mixture of each input; of all chains where no axis is named otherwise."""
    named = {getattr(layer, "axes", None) for layer in layers}
    kept = next((x for axes in named for x in axes or () if x not in AVERAGED), None)
    if kept is None:
        return _on_live_states(layers, weights, mixture)
    _check_shapes(layers, weights, kept)
    places = [(slice(None),) * (layer.axes or ()).index(kept) for layer in layers]
    inputs = [
        _mixed(
            [layer[(*place, i)] for layer, place in zip(layers, places, strict=True)],
            [part[(*place, i)] for part, place in zip(weights, places, strict=True)],
            mixture,
        )
        for i in range(layers[0].batch_shape[len(places[0])])
    ]
    return Stacked.joined(inputs, (kept, *(inputs[0].axes or ())))


def _check_shapes(
    layers: list[AbstractTransition], weights: list[Tensor], kept: str
) -> None:
    """Raises ShapeError unless all layers have the axis, and weights their shapes."""
    axes = [layer.axes or () for layer in layers]
    sizes = {
        layer.batch_shape[names.index(kept)] if kept in names else None
        for layer, names in zip(layers, axes, strict=True)
    }
    shapes = [tuple(layer.batch_shape) for layer in layers]
    if len(sizes) > 1:
        message = (
            f"layers are mixed for each {kept}, so all must have that axis in one "
            f"length, but have axes {axes} of {shapes}"
        )
        raise ShapeError(message)
    if [tuple(part.shape) for part in weights] != shapes:
        message = (
            f"weights (or lambda2) must have the layers' batch shapes {shapes}, but "
            f"have {[tuple(part.shape) for part in weights]}"
        )
        raise ShapeError(message)


def _on_live_states(
    layers: list[AbstractTransition], weights: list[Tensor], mixture: _Mixing
) -> AbstractTransition:
    """The mixture; of chains among padding on the states they all live on."""
    if all(getattr(layer, "live", None) is None for layer in layers):
        return mixture(layers, weights)
    rows = [_live_rows(layer) for layer in layers]
    if any(not torch.equal(row, rows[0][0]) for part in rows for row in part):
        message = (
            "chains of different texts (their live states differ) are not mixed: index "
            "one text, or name the batch dimensions, as axes=('input', 'head') does"
        )
        raise ShapeError(message)
    members = [member for layer in layers for member in layer.chains()]
    shares = [share for part in weights for share in part.reshape(-1)]
    return Stacked([mixture(members, shares)], rows[0][0])


def _live_rows(layer: AbstractTransition) -> Tensor:
    return Stacked.joined([layer]).live.reshape(-1, layer.n_states)
