"""Eigenvalues of the Laplacian of causal attention, without a matrix."""

from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ArgumentError
from attnchain.operators import AbstractTransition, check_transition, is_causal
from attnchain.readouts.columns import received
from attnchain.readouts.rowwise import diagonal


def laplacian_eigenvalues(
    transition: AbstractTransition,
) -> Float[Tensor, "*batch n"]:
    r"""Spectrum of $L = D - P$ of causal heads, of which hallucinations are told.

    D holds the mean attention a token gets from itself and all later ones,
    $D_{jj} = \sum_{i \ge j} P_{ij} / (n - j)$ with tokens counted from 0. L is lower
    triangular, so its eigenvalues are its diagonal, $D_{jj} - P_{jj}$: one product
    and one diagonal, no matrix.

    Args:
        transition: One causal chain or a batch, without padding.

    Returns:
        One eigenvalue for each token, in the order of the tokens; the paper's
        features are the largest of each head, `.sort(descending=True)`.

    Raises:
        ArgumentError: The attention is not causal.
        ShapeError: Some chain has padding.

    Cost:
        Two passes over the scores, O(n d) memory.

    Sources:
        Binkowski et al., LapEigvals, arXiv 2502.17598. Their released code also
        counts edges between layers; this is the formula of one layer.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> laplacian_eigenvalues(as_transition(torch.tensor([[1.0, 0.0], [0.4, 0.6]])))
        tensor([-0.3000,  0.0000])
    """
    check_transition(transition)
    if not is_causal(transition):
        message = (
            "laplacian_eigenvalues needs causal attention (a lower triangular matrix), "
            f"but got {transition!r}"
        )
        raise ArgumentError(message)
    return received(transition) - diagonal(transition)
