"""Questions about a chain's structure: stochastic, irreducible, reversible."""

from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_distribution, check_positive
from attnchain.errors import ArgumentError, ReducibleChainError, ShapeError
from attnchain.markov.reducible import strong_classes
from attnchain.operators import (
    AbstractTransition,
    Side,
    Stacked,
    check_transition,
    fits_budget,
    full_precision,
)

_FEW = 4
"""Products that find what attention reaches, before its matrix is stored."""
_REMEDY = "damp it (damping < 1) or keep one class only with Restricted"


def is_stochastic(transition: AbstractTransition, *, tolerance: float = 1e-5) -> bool:
    r"""Whether every row sums to one: $P \mathbf 1 = \mathbf 1$.

    Args:
        transition: One chain or a batch.
        tolerance: Largest deviation of a row sum.

    Returns:
        True when all chains of the batch pass.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> is_stochastic(as_transition(torch.eye(3)))
        True
    """
    check_transition(transition)
    check_positive(tolerance, "tolerance")
    ones = torch.ones(
        transition.n_states, dtype=transition.dtype, device=transition.device
    )
    live = ones if transition.live is None else transition.live.to(ones)
    return bool((transition.pull(ones) - live).abs().max() <= float(tolerance))


@full_precision
def is_irreducible(transition: AbstractTransition) -> bool:
    """Whether every state can reach every other, on the stored or computed numbers.

    One state's forward set (by pushes) and backward set (by pulls) are grown until
    they stop; the chain is irreducible when both hold all states. Where that takes
    more than a few products, and the matrix fits the memory budget, its graph is
    searched instead. A probability that underflows to zero in float64 counts as no
    connection.

    Args:
        transition: One chain or a batch.

    Returns:
        True when all chains of the batch are irreducible.

    Raises:
        ArgumentError: No transition.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> is_irreducible(as_transition(torch.eye(2)))
        False
    """
    check_transition(transition)
    return all(_communicates(chain) for chain in transition.chains())


def check_irreducible(chain: AbstractTransition) -> None:
    """Raises ReducibleChainError, naming the closed classes where they can be found."""
    if _communicates(chain):
        return
    found = ""
    if fits_budget(chain.shape, chain.dtype, chain.device):
        classes = closed_classes(chain)
        passing = chain.n_states - sum(map(len, classes))
        found = f": it has {len(classes)} closed class(es) ({_described(classes)})"
        found += f" and {passing} state(s) it never returns to" if passing else ""
    raise ReducibleChainError(f"the undamped chain is reducible{found}; {_REMEDY}")


def check_one_class(chain: AbstractTransition) -> None:
    """Raises ReducibleChainError unless a column-normalised chain has one closed class.

    It also raises where there are too many states to tell.
    """
    missed = "the personalization never leads to some tokens, not by attention either"
    remedy = "give every token some of it, or drop those tokens with Restricted"
    if not fits_budget(chain.shape, chain.dtype, chain.device):
        message = f"{missed}, in a chain too large to search for its classes; {remedy}"
        raise ReducibleChainError(message)
    classes = closed_classes(chain)
    if len(classes) > 1:
        message = (
            f"{missed}, so the distribution is not unique: there are {len(classes)} "
            f"closed classes ({_described(classes)}); {remedy}"
        )
        raise ReducibleChainError(message)


def reaches_all(chain: AbstractTransition, start: Tensor) -> bool:
    """Whether some states, a mask (n,), lead to all others."""
    return bool(start.all()) or bool(_grown(chain, start, "push").all())


def closed_classes(chain: AbstractTransition) -> list[Tensor]:
    """Sets of states that are never left once entered, each as sorted indices.

    Padding is in none.

    Args:
        chain: A single chain whose n x n matrix fits the memory budget.

    Returns:
        The closed communicating classes; one of n states when irreducible.

    Raises:
        ArgumentError: No transition, a batch, or too many states to store.
    """
    check_transition(chain)
    if chain.batch_shape or not fits_budget(chain.shape, chain.dtype, chain.device):
        message = f"classes need one chain small enough to store, but got {chain!r}"
        raise ArgumentError(message)
    if isinstance(chain, Stacked):
        states = chain.live.nonzero()[:, 0].cpu()
        return [states[part] for part in closed_classes(chain.members[0])]
    component, closed = strong_classes(chain.to_dense())
    return [torch.nonzero(component == c)[:, 0] for c in torch.nonzero(closed)[:, 0]]


def _communicates(chain: AbstractTransition) -> bool:
    """Whether one chain is irreducible."""
    first = torch.zeros(chain.n_states, dtype=torch.bool, device=chain.device)
    first[0] = True
    return all(bool(_grown(chain, first, side).all()) for side in get_args(Side))


def _grown(chain: AbstractTransition, start: Tensor, side: Side) -> Tensor:
    """States reached from some ("push"), or that reach them ("pull"): mask (n,)."""
    reached = _spread(chain, start, side, _FEW)
    if bool(reached.all()):
        return reached
    exact = chain.to(torch.float64)  # single precision may have underflowed
    if fits_budget(exact.shape, exact.dtype, exact.device):
        return _searched(exact, reached, side)
    return _spread(exact, reached, side, exact.n_states)


def _spread(chain: AbstractTransition, start: Tensor, side: Side, steps: int) -> Tensor:
    """States within a number of steps, by products."""
    reached = start
    for _ in range(steps):
        grown = reached | (chain.multiply(reached.to(chain.dtype), side) > 0)
        if torch.equal(grown, reached):
            break
        reached = grown
    return reached


def _searched(chain: AbstractTransition, start: Tensor, side: Side) -> Tensor:
    """States within any number of steps, by a search that looks at each row once."""
    steps = chain.to_dense() > 0
    steps = steps if side == "push" else steps.mT
    reached = newly = start
    while bool(newly.any()):
        newly = steps[newly].any(0) & ~reached
        reached = reached | newly
    return reached


def _described(classes: list[Tensor]) -> str:
    """The first few classes in words."""
    shown = [
        f"{len(c)} states from {int(c[0])} on" if len(c) > 1 else f"state {int(c)}"
        for c in classes[:5]
    ]
    return ", ".join(shown)


@full_precision
def detailed_balance_error(
    transition: AbstractTransition, stationary: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    r"""How far a chain is from reversible.

    $\sum_{ij} |\pi_i P_{ij} - \pi_j P_{ji}|$: the L1 norm of the net probability
    flows, 0 for a reversible chain and at most 2.

    Args:
        transition: One chain or a batch, small enough to store.
        stationary: Its stationary distribution.

    Returns:
        One number for each chain.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> cycle = as_transition(torch.eye(3).roll(1, 1))
        >>> detailed_balance_error(cycle, torch.full((3,), 1 / 3))
        tensor(2.)
    """
    check_transition(transition)
    check_distribution(stationary, transition.n_states, "stationary")
    batch = transition.batch_shape
    if stationary.shape[:-1] not in (torch.Size(), batch):
        message = (
            f"stationary must be (n,) or {(*batch, 'n')}, but has shape "
            f"{tuple(stationary.shape)}"
        )
        raise ShapeError(message)
    flow = stationary.to(transition.dtype)[..., None] * transition.to_dense()
    return (flow - flow.mT).abs().sum((-2, -1))


def is_reversible(
    transition: AbstractTransition,
    stationary: Float[Tensor, "*batch n"],
    *,
    tolerance: float = 1e-6,
) -> bool:
    """Whether detailed balance holds: pi_i P_ij = pi_j P_ji.

    Args:
        transition: One chain or a batch, small enough to store.
        stationary: Its stationary distribution.
        tolerance: Largest `detailed_balance_error`.

    Returns:
        True when all chains of the batch pass.
    """
    check_positive(tolerance, "tolerance")
    error = detailed_balance_error(transition, stationary)
    return bool((error <= float(tolerance)).all())
