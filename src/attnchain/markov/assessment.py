"""Questions about a chain's structure: stochastic, irreducible, reversible."""

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ShapeError
from attnchain.operators import AbstractTransition, Side, fits_budget


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
    ones = torch.ones(
        transition.n_states, dtype=transition.dtype, device=transition.device
    )
    return bool((transition.pull(ones) - 1).abs().max() <= tolerance)


def is_irreducible(transition: AbstractTransition) -> bool:
    """Whether every state can reach every other, on the stored or computed numbers.

    One state's forward set (by pushes) and backward set (by pulls) are grown until
    they stop; the chain is irreducible when both hold all states. No matrix is
    formed. A probability that underflows to zero counts as no connection.

    Args:
        transition: One chain or a batch.

    Returns:
        True when all chains of the batch are irreducible.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> is_irreducible(as_transition(torch.eye(2)))
        False
    """
    return all(
        bool(reachable(chain, "push").all()) and bool(reachable(chain, "pull").all())
        for chain in transition.chains()
    )


def reachable(chain: AbstractTransition, side: Side) -> Tensor:
    """States reached from state 0 ("push"), or that reach it ("pull"): mask (n,)."""
    product = chain.push if side == "push" else chain.pull
    n = chain.n_states
    reached = torch.zeros(n, dtype=torch.bool, device=chain.device)
    reached[0] = True
    while True:
        grown = reached | (product(reached.to(chain.dtype)) > 0)
        if bool((grown == reached).all()):
            return reached
        reached = grown


def closed_classes(chain: AbstractTransition) -> list[Tensor]:
    """Sets of states that are never left once entered, each as sorted indices.

    Args:
        chain: A single chain whose n x n matrix fits the memory budget.

    Returns:
        The closed communicating classes; one of n states when irreducible.

    Raises:
        ShapeError: A batch, or too many states to store.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if chain.batch_shape or not fits_budget(chain.shape, chain.dtype, chain.device):
        message = f"classes need one chain small enough to store, but got {chain!r}"
        raise ShapeError(message)
    edges = csr_array((chain.to_dense() > 0).cpu().numpy())
    count, component = connected_components(edges, directed=True, connection="strong")
    source, target = edges.nonzero()
    leaving = set(component[source[component[source] != component[target]]].tolist())
    labels = torch.from_numpy(component)
    return [torch.nonzero(labels == c)[:, 0] for c in range(count) if c not in leaving]


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
    return bool((detailed_balance_error(transition, stationary) <= tolerance).all())
