"""iSeg: maps refined by bounces in thinned attention (arXiv 2409.03209).

`refine_map(entropy_reduced(chain), cue)` is its loop.

Sources:
    Sun et al., iSeg: An Iterative Refinement-based Framework for Training-free
    Segmentation, arXiv 2409.03209; from the formulas.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import (
    check_finite,
    check_floating,
    check_number,
    check_positive,
)
from attnchain.errors import ArgumentError, NotStochasticError
from attnchain.operators import AbstractTransition, DenseTransition


def entropy_reduced(
    chain: AbstractTransition, strength: float = 0.015
) -> DenseTransition:
    r"""A chain without its faint steps, after iSeg.

    Every column is divided by its maximum to $a$; one step down the gradient of the
    entropy $-\sum a \ln a$ gives $\max(0, a + \lambda \log_{10}(e\,a))$; rows are
    renormalised. It is a soft threshold: a step survives if it exceeds the root of
    $r + \lambda \log_{10}(e\,r) = 0$ times the strongest step to the same token.

    Args:
        chain: One chain or a batch; its matrix is stored.
        strength: $\lambda$; 0.002 to 0.2 in the authors' settings.

    Returns:
        The thinned chain.

    Raises:
        ArgumentError: The strength is not positive.
        NotStochasticError: A token loses all its steps.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.99, 0.01], [0.02, 0.98]]))
        >>> entropy_reduced(two, 0.1).to_dense()
        tensor([[1., 0.],
                [0., 1.]])
    """
    check_positive(strength, "strength")
    matrix = chain.to_dense()
    tiny = torch.finfo(matrix.dtype).tiny
    relative = matrix / matrix.amax(-2, keepdim=True).clamp_min(tiny)
    entropy_gradient = (math.e * relative.clamp_min(tiny)).log10()
    thinned = (relative + strength * entropy_gradient).clamp_min(0)
    sums = thinned.sum(-1, keepdim=True)
    if bool((sums == 0).any()):
        token = torch.nonzero(sums[..., 0] == 0)[0].tolist()
        message = (
            f"token {token} loses all its steps at strength {strength:g}; take a "
            "smaller strength"
        )
        raise NotStochasticError(message)
    return DenseTransition(thinned / sums)


def refine_map(
    chain: AbstractTransition, cue: Float[Tensor, "*batch n"], bounces: int = 10
) -> Float[Tensor, "*batch n"]:
    r"""Pulls a cue through a chain, its lowest value taken off after every bounce.

    $c \leftarrow P c$, then $c \leftarrow (c - \min c) / \sum (c - \min c)$. Without
    the subtraction the limit is a constant; with it, for a real and simple
    $\lambda_2 > 0$, the second right eigenvector, shifted to minimum 0, with the cue
    deciding only its sign. Few bounces keep the cue, many forget which it was.

    Args:
        chain: One chain; iSeg takes the `entropy_reduced` one.
        cue: Values of the states, for example a word's cross-attention.
        bounces: Number of bounces.

    Returns:
        The refined cue: >= 0, sum 1.

    Raises:
        ArgumentError: A batch, bounces below 0, or a cue that is constant or of other
            states.
        NotStochasticError: The cue is not finite.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> three = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
        >>> refine_map(as_transition(three), torch.tensor([1.0, 0.0, 0.0]), 20)
        tensor([0.6667, 0.3333, 0.0000])
    """
    check_floating(cue, "cue")
    check_finite(cue, "cue")
    check_number(bounces, "bounces")
    if chain.batch_shape or bounces != int(bounces) or bounces < 0:
        message = (
            "refine_map takes one chain and a whole number of bounces >= 0, but got "
            f"{chain!r} and {bounces!r}"
        )
        raise ArgumentError(message)
    values = _shares(cue)
    for _ in range(bounces):
        many = chain.pull(values.reshape(-1, values.shape[-1]))
        values = _shares(many.view(values.shape))
    return values


def _shares(values: Tensor) -> Tensor:
    """Values above their minimum, divided by their sum."""
    above = values - values.amin(-1, keepdim=True)
    total = above.sum(-1, keepdim=True)
    if not bool((total > 0).all()):
        message = (
            "a map became constant, which tells no state from another; give a cue that "
            "varies, or fewer bounces"
        )
        raise ArgumentError(message)
    return above / total
