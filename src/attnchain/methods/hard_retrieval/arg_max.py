"""The likeliest steps of a chain: a map of its states, and where it leads."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.checks import check_distribution
from attnchain.errors import ShapeError
from attnchain.methods.hard_retrieval.state_rows import one_chain, row_blocks


@dataclass(frozen=True, eq=False)
class FunctionalGraph:
    r"""Every state with one step out of it: $f(i) = \arg\max_j P_{ij}$.

    A walk ends in a cycle, and each cycle has a basin of states that lead to it. The
    chain of f is reducible where there is more than one: its long-run distribution
    depends on the start (`limit`).

    Attributes:
        successor: f, `(n,)`.
        recurrent: Whether a state lies on a cycle.
        root: The smallest state of the cycle that each state leads to.
    """

    successor: Int[Tensor, " n"]
    recurrent: Bool[Tensor, " n"]
    root: Int[Tensor, " n"]

    @property
    def cycles(self) -> list[Int[Tensor, " length"]]:
        """The states of each cycle as they are walked, from the smallest on."""
        found, successor = [], self.successor.tolist()
        for first in self.root.unique().tolist():
            cycle = [first]
            while successor[cycle[-1]] != first:
                cycle.append(successor[cycle[-1]])
            found.append(torch.tensor(cycle))
        return found

    @property
    def basins(self) -> Int[Tensor, " cycles"]:
        """How many states lead to each cycle, itself included, as in `cycles`."""
        return self.root.unique(return_counts=True)[1]

    def limit(self, start: Float[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
        r"""Where a walk is in the long run: $\lim_T \frac1T \sum_{t < T} v F^t$.

        The mass that starts in a basin is spread evenly over its cycle.

        Args:
            start: Where the walk begins, v; anywhere alike by default.

        Returns:
            A distribution over the states, in float64.

        Raises:
            ShapeError: The start is over other states.
            NotStochasticError: It is no distribution.
        """
        n = len(self.successor)
        if start is None:
            start = torch.full((n,), 1 / n, dtype=torch.float64)
        check_distribution(start, n, "start")
        if start.ndim != 1:
            raise ShapeError(f"start must be ({n},), but is {tuple(start.shape)}")
        zero = torch.zeros(n, dtype=torch.float64)
        mass = zero.scatter_add(0, self.root, start.detach().double().cpu())
        length = zero.scatter_add(0, self.root, self.recurrent.double())
        return (mass / length.clamp_min(1))[self.root] * self.recurrent


def functional_graph(chain: Any) -> FunctionalGraph:
    r"""The chain in which every state takes its likeliest step: arg-max attention.

    Of equal steps the first is taken. Cycles are found by pointer doubling: f, f after
    f, ... up to $f^{2^k}$ with $2^k \ge n$, whose image are the states on cycles.

    Args:
        chain: One chain, or its matrix; attention is never stored.

    Returns:
        The map with its cycles and basins.

    Raises:
        ShapeError: A batch.
        ArgumentError: A chain with padding.
        NotStochasticError: A row is fully masked.

    Cost:
        One pass over the scores, then O(n log n).

    Example:
        >>> P = torch.tensor([[0.1, 0.9, 0.0], [0.6, 0.1, 0.3], [0.2, 0.5, 0.3]])
        >>> graph = functional_graph(P)
        >>> graph.successor, graph.cycles, graph.basins
        (tensor([1, 0, 1]), [tensor([0, 1])], tensor([3]))
        >>> graph.limit()
        tensor([0.5000, 0.5000, 0.0000], dtype=torch.float64)
    """
    base = one_chain(chain)
    states = torch.arange(base.n_states, device=base.device)
    steps = [rows.argmax(-1) for _, rows in row_blocks(base, states)]
    successor = torch.cat(steps).cpu()
    jump, lowest = successor, torch.arange(len(successor))
    reach = 1
    while reach < len(successor):
        lowest = torch.minimum(lowest, lowest[jump])
        jump, reach = jump[jump], 2 * reach
    recurrent = torch.zeros(len(successor), dtype=torch.bool)
    recurrent[jump] = True
    return FunctionalGraph(successor, recurrent, lowest[jump])
