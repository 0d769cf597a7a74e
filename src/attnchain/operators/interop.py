"""Ways in and out: tensors and arrays to transitions, transitions to SciPy."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_finite, check_floating
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators.base import AbstractTransition, check_transition
from attnchain.operators.dense import DenseTransition
from attnchain.operators.memory import fits_solving, within_a_tile
from attnchain.operators.stacked import Stacked

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


def as_transition(chain: Any) -> AbstractTransition:
    """A transition from what users have: a stored matrix, or a transition.

    Args:
        chain: Row-stochastic tensor or array `(*batch, n, n)`, or a transition,
            which is returned unchanged. Every row is divided by its sum in float64,
            which rounding has left near one.

    Returns:
        A `DenseTransition`; float32 for half and single precision, else float64. It
        holds the tensor itself, and a copy of an array.

    Raises:
        ArgumentError: Not a tensor or an array of numbers.
        ShapeError: Not square, or not real floating-point numbers.
        NotStochasticError: Rows are negative or do not sum to one.

    Example:
        >>> import torch
        >>> as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]])).n_states
        2
    """
    if isinstance(chain, AbstractTransition):
        return chain
    if isinstance(chain, Tensor):
        return DenseTransition(chain)
    try:
        matrix = torch.as_tensor(chain).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        message = (
            "a transition needs a torch tensor or an array of numbers, but got "
            f"{type(chain).__name__}"
        )
        raise ArgumentError(message) from error
    return DenseTransition(matrix)


def normalize_rows(weights: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    r"""Divides every row by its sum: $P_{ij} = W_{ij} / \sum_l W_{il}$.

    The explicit way to make a chain of weights that are not one yet (rounded
    attention, averaged maps, similarities).

    Args:
        weights: Entries >= 0, every row with a positive sum.

    Returns:
        Row-stochastic matrices, in float32 or better.

    Raises:
        NotStochasticError: An entry is negative or not finite, or a row sums to zero.

    Example:
        >>> import torch
        >>> normalize_rows(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
        tensor([[0.2500, 0.7500],
                [0.5000, 0.5000]])
    """
    check_floating(weights, "weights")
    check_finite(weights.detach(), "weights")
    if bool((weights < 0).any()):
        message = f"weights must be >= 0, but one is {float(weights.min()):.3g}"
        raise NotStochasticError(message)
    wide = weights.to(torch.promote_types(weights.dtype, torch.float32))
    sums = wide.sum(-1, keepdim=True)
    if bool((sums == 0).any()):
        row = cast("list[int]", torch.nonzero(sums[..., 0] == 0)[0].tolist())
        message = f"row {row} sums to zero: its state can go nowhere; drop the state"
        raise NotStochasticError(message)
    return wide / sums


def to_scipy(transition: AbstractTransition) -> "LinearOperator":
    """A single chain as a SciPy operator, for SciPy's own spectral code.

    Args:
        transition: A chain without batch dimensions.

    Returns:
        `LinearOperator` in float64: `matvec` is pull (P f), `rmatvec` is push (v P).

    Raises:
        ShapeError: The transition is batched.
    """
    from scipy.sparse.linalg import LinearOperator

    check_transition(transition, "transition")
    if transition.batch_shape:
        message = f"to_scipy takes one chain, but got {transition!r}; index it first"
        raise ShapeError(message)
    exact = transition.to(torch.float64)

    class Chain(LinearOperator):
        def __init__(self) -> None:
            super().__init__(dtype="float64", shape=tuple(exact.shape))

        def _matvec(self, x: Any) -> Any:
            return exact.pull(torch.as_tensor(x).reshape(-1)).cpu().numpy()

        def _rmatvec(self, x: Any) -> Any:
            return exact.push(torch.as_tensor(x).reshape(-1)).cpu().numpy()

    return Chain()


def stored(chain: AbstractTransition) -> AbstractTransition:
    """The same single chain with its matrix stored, where that is allowed.

    Solvers call this before they take many products of one chain. The budget has to
    hold the matrix twice, since solvers keep a copy in single precision. A chain that
    was asked for in tiles (`backend="tiled"`) is stored only where its matrix is no
    larger than a tile.

    Args:
        chain: A chain without batch dimensions.

    Returns:
        A `DenseTransition`, or the chain itself.

    Example:
        >>> import torch
        >>> q = torch.zeros(3, 2)
        >>> from attnchain.operators import AttentionTransition
        >>> stored(AttentionTransition(q, q))
        DenseTransition(shape=(3, 3), float32, cpu)
    """
    if isinstance(chain, DenseTransition):
        return chain
    check_transition(chain, "chain")
    if isinstance(chain, Stacked):
        return chain.each(stored)
    refused = chain.never_stores and not within_a_tile(chain.shape)
    if refused or not fits_solving(chain.shape, chain.dtype, chain.device):
        return chain
    return DenseTransition.trusted(chain.to_dense())
