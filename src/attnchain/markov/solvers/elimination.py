r"""Stationary distributions by elimination without subtraction, for stored chains.

Grassmann, Taksar and Heyman eliminate one state after the other: what led through
state k is added to the direct steps, $P_{ij} + P_{ik} P_{kj} / s_k$ with the
probability $s_k = \sum_{j<k} P_{kj}$ of leaving it for the states that are left. All
numbers are sums and products of positive ones, so every entry of the result is right
to its leading digits, however rarely the chain leaves some of its sets.

Here blocks B of states are eliminated at once,
$P_{RR} + P_{RB} (1 - P_{BB})^{-1} P_{BR}$, by triangular factors found in the same way:
most of the work is matrix products.
"""

# pyright: reportUnknownMemberType=false

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

BLOCK = 64
"""States eliminated at once."""
_SMALLEST = 1e-280
"""Below this probability of leaving a state, products of probabilities underflow."""


def eliminate(matrix: Tensor) -> Tensor | None:
    """The stationary distribution of a chain with one closed class.

    Args:
        matrix: `(n, n)`, float64, rows sum to one; its diagonal is not used.

    Returns:
        `(n,)`, zero outside the closed class; None where there are several, or several
        that are left with probabilities that underflow.

    Sources:
        Grassmann, Taksar and Heyman, Regenerative analysis and steady state
        distributions for Markov chains, Operations Research 1985; O'Cinneide,
        Entrywise perturbation theory and error analysis for Markov chains, 1993.

    Example:
        >>> import torch
        >>> rare = torch.tensor([[1.0, 1e-20], [3e-20, 1.0]], dtype=torch.float64)
        >>> eliminate(rare)
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    last = 0
    for _ in range(2):
        found = _towards(matrix, last)
        if isinstance(found, Tensor):
            return found
        # From there no state that is left can be reached: it is in a closed class.
        last = found
    return None


def _towards(matrix: Tensor, last: int) -> Tensor | int:
    """The distribution, eliminating `last` never; or a state that cannot reach it."""
    order = torch.arange(len(matrix), device=matrix.device)
    order[0], order[last] = last, 0
    left = _swapped(matrix, last)
    blocks = _eliminated(left, BLOCK)
    if not bool(torch.isfinite(left).all()):
        # A visit to a block lasts for more than 1e308 steps: states go one by one.
        left = _swapped(matrix, last)
        blocks = _eliminated(left, 1)
    if isinstance(blocks, int):
        return int(order[blocks])
    return _substituted(left, blocks)[order]


def _swapped(matrix: Tensor, state: int) -> Tensor:
    """A copy where a state and the first one have changed places."""
    copy = matrix.clone()
    copy[[0, state]] = copy[[state, 0]]
    copy[:, [0, state]] = copy[:, [state, 0]]
    return copy


def rounding_bound(n: int) -> float:
    r"""Bounds the L1 error of `eliminate` for n states, whatever the chain.

    By the Markov chain tree theorem relative errors $\delta$ in the entries of a chain
    of m states change its distribution by a relative $2 m \delta$ at most; $\delta$ is
    a sum of at most n terms in chunks, three products, and two triangular solves, for
    every state that is eliminated.
    """
    block = min(BLOCK, n)
    return n * n * (6 * block + n / block + 8) * torch.finfo(torch.float64).eps / 2


@dataclass(frozen=True)
class _Block:
    """Eliminated states lo..hi with $1 - P_{BB} = U L$, entries off the diagonals >= 0.

    Attributes:
        factors: Above the diagonal -U, on it and below L and -L.
    """

    low: int
    high: int
    factors: np.ndarray

    def times_inverse(self, right: Tensor) -> Tensor:
        """(1 - P_BB)^-1 P_BR for the steps P_BR from the block to the rest."""
        upper = np.eye(len(self.factors)) - np.triu(self.factors, 1)
        lower = np.diag(self.factors.diagonal()) - np.tril(self.factors, -1)
        upper, lower = (torch.from_numpy(x).to(right.device) for x in (upper, lower))
        half = cast(
            "Tensor",
            torch.linalg.solve_triangular(upper, right, upper=True, unitriangular=True),
        )
        return cast("Tensor", torch.linalg.solve_triangular(lower, half, upper=False))


def _eliminated(matrix: Tensor, size: int) -> list[_Block] | int:
    """Eliminates all states but the first, in place: the blocks, the last one first.

    Or the state that cannot reach what is left.
    """
    blocks: list[_Block] = []
    for low in reversed(range(0, len(matrix), size)):
        high = min(low + size, len(matrix))
        inside = matrix[low:high, low:high].cpu().numpy().copy()
        outside = matrix[low:high, :low]
        factors = _factorised(inside, _row_sums(outside).cpu().numpy(), low == 0)
        if isinstance(factors, int):
            return low + factors
        blocks.append(_Block(low, high, factors))
        if low > 0:
            ways = blocks[-1].times_inverse(outside)
            matrix[:low, :low].addmm_(matrix[:low, low:high], ways)
    return blocks


def _factorised(
    inside: np.ndarray, leaving: np.ndarray, keeps_first: bool
) -> np.ndarray | int:
    """The factors of a block, its states eliminated one by one; or one that cannot."""
    for k in reversed(range(len(inside))):
        total = inside[k, :k].sum() + leaving[k]
        if k == 0 and keeps_first:
            break
        if not total > _SMALLEST:
            return k
        inside[k, k] = total
        inside[:k, k] /= total
        inside[:k, :k] += inside[:k, k, None] * inside[k, :k]
        leaving[:k] += inside[:k, k] * leaving[k]
    return inside


def _row_sums(steps: Tensor) -> Tensor:
    """Row sums in chunks, whose rounding grows with the chunks and not the columns."""
    chunks = cast("tuple[Tensor, ...]", steps.split(BLOCK, -1))
    return torch.stack([chunk.sum(-1) for chunk in chunks]).sum(0)


def _substituted(matrix: Tensor, blocks: list[_Block]) -> Tensor:
    """The distribution, from the first state on; kept within 0..1 all the time."""
    pi = torch.zeros_like(matrix[0])
    for block in reversed(blocks):
        into = (pi[: block.low] @ matrix[: block.low, block.low : block.high]).cpu()
        inside, scale = _visits(into.numpy(), block)
        pi[: block.low] *= scale
        pi[block.low : block.high] = torch.from_numpy(inside).to(pi.device)
    return pi / pi.sum()


def _visits(into: np.ndarray, block: _Block) -> tuple[np.ndarray, float]:
    """Masses of a block's states from what steps into them, and how all were scaled."""
    factors, scale, size = block.factors, 1.0, len(block.factors)
    mass = into.copy()
    if block.low == 0:
        mass[0] = 1.0
    for k in reversed(range(size if block.low else 0)):
        mass[k] = (mass[k] + mass[k + 1 :] @ factors[k + 1 :, k]) / factors[k, k]
    for k in range(size):
        mass[k] += mass[:k] @ factors[:k, k]
        if mass[k] > 1:
            scale /= mass[k]
            mass /= mass[k]
    return mass, scale
