r"""How much of t bounces the slowest modes of a chain carry.

For a reversible chain the modes are eigenvectors, and the share is
$1 - \sum_{i > k} |\lambda_i|^{2t} / \sum_{i > 1} |\lambda_i|^{2t}$. For any other it
also never falls with k, as the projections are orthogonal and nested; sums of
eigenvectors, which are oblique there, would not have that. A k between a complex pair
counts half of it. Where moduli tie in a chain that is not reversible, the share
depends on the order that the Schur form happens to have.

Sources: the explained variance of nested tokens (Wen et al., arXiv 2503.08685), with
the modes of the chain in the place of tokens; this form of it is ours.
"""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_count, check_whole
from attnchain.errors import ArgumentError, ReducibleChainError, ShapeError
from attnchain.markov.batches import fewest_states, for_each_chain
from attnchain.markov.solvers.schur import ordered_schur
from attnchain.markov.stationarity import stationary
from attnchain.operators import (
    AbstractTransition,
    DenseTransition,
    check_transition,
    fits_budget,
)


def explained_bounce(
    transition: AbstractTransition, k: int | Sequence[int], t: int
) -> Float[Tensor, "..."]:
    r"""The share of t bounces that the k slowest modes carry, from 0 to 1.

    $EV_t(k) = 1 - \|P^t - P_k^t\|^2 / \|P^t - \mathbf 1 \pi\|^2$: how much of what t
    bounces still know of their start is left when observables are first projected on
    the k slowest modes, $P_k^t = P^t \Pi_k$. $\Pi_k$ is the projection on the leading k
    Schur vectors (eigenvalues by decreasing modulus, first the 1), orthogonal in
    $\langle f, g \rangle = \sum_i \pi_i f_i g_i$, and $\|A\|^2 = \sum_{ij} \pi_i
    A_{ij}^2 / \pi_j$ the norm that belongs to it.

    Args:
        transition: One chain or a batch, irreducible and small enough to store.
        k: Number of modes, counting the stationary one: 1 to n; or several of these.
        t: Number of bounces, 1 or more.

    Returns:
        Float64, `(*batch,)`; for several k `(*batch, len(k))`, the curve. 0 for k = 1,
        1 for k = n; all 1 where t bounces forget everything and nothing is left to
        carry.

    Raises:
        ArgumentError: No transition, k outside 1..n, or t no whole number >= 1.
        ReducibleChainError: pi is not unique, or zero somewhere; damp the chain.
        ShapeError: The matrix does not fit the memory budget.

    Cost:
        One Schur form and 2 log2(t) products of n x n matrices for each chain.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> three = torch.tensor([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]])
        >>> explained_bounce(as_transition(three.double()), range(1, 4), 2)
        tensor([0.0000, 0.7596, 1.0000], dtype=torch.float64)
    """
    wanted = _checked(transition, k, t)
    with torch.no_grad():
        shares = for_each_chain(
            partial(_shares, most=max(wanted), bounces=int(t)), transition
        )
    chosen = torch.stack(shares)[:, [one - 1 for one in wanted]]
    curve = chosen.view((*transition.batch_shape, len(wanted))).to(transition.device)
    return curve if isinstance(k, Sequence) else curve[..., 0]


def _checked(
    transition: AbstractTransition, k: int | Sequence[int], t: int
) -> list[int]:
    """The numbers of modes asked for."""
    check_transition(transition)
    n = fewest_states(transition)
    wanted = list(k) if isinstance(k, Sequence) else [k]
    if not wanted:
        raise ArgumentError("k must be one number of modes or several, but is empty")
    for one in wanted:
        check_count(one, "k", low=1, high=n, meaning="the number of states")
    check_whole(t, "t")
    if not fits_budget(transition.shape[-2:], torch.float64, transition.device):
        message = f"explained_bounce stores {n} x {n} matrices; restrict the chain"
        raise ShapeError(message)
    return [int(one) for one in wanted]


def _shares(chain: AbstractTransition, *, most: int, bounces: int) -> Tensor:
    """The shares of 1 to `most` modes."""
    import scipy.linalg

    memory = _memory(chain)
    size = len(memory)
    if np.linalg.norm(memory) <= size * np.finfo(float).eps:
        return torch.ones(most, dtype=torch.float64)
    ordered = ordered_schur(memory, most - 1)
    to_complex = cast("Any", scipy.linalg.rsf2csf)
    triangular, _ = to_complex(ordered.triangular, ordered.vectors)
    power = _normalized_power(triangular, bounces)
    carried = np.cumsum((abs(power) ** 2).sum(0))
    if carried[-1] == 0:
        return torch.ones(most, dtype=torch.float64)
    shares = np.concatenate([[0.0], carried / carried[-1]])
    return torch.from_numpy(shares[:most].copy())


def _memory(chain: AbstractTransition) -> np.ndarray:
    r"""What P does beside $\mathbf 1 \pi$, in a basis where the norm is Frobenius's.

    $D P D^{-1}$ with $D = \mathrm{diag}(\sqrt\pi)$, turned so that $\sqrt\pi$, its
    eigenvector from both sides, is the first axis, which is then left out: (n - 1)^2.
    """
    matrix = chain.to(torch.float64).to_dense()
    matrix = matrix / matrix.sum(-1, keepdim=True)
    pi = stationary(DenseTransition.trusted(matrix)).distribution
    if not bool((pi > 0).all()):
        message = (
            "a state has a stationary probability of zero in float64, so the norm "
            "that pi weights is not defined; damp the chain"
        )
        raise ReducibleChainError(message)
    root = pi.sqrt().cpu().numpy()
    even = root[:, None] * matrix.cpu().numpy() / root
    normal = root / np.linalg.norm(root)
    normal[0] += 1
    normal /= np.linalg.norm(normal)
    even -= 2 * np.outer(even @ normal, normal)
    even -= 2 * np.outer(normal, normal @ even)
    return even[1:, 1:]


def _normalized_power(matrix: np.ndarray, exponent: int) -> np.ndarray:
    """A power but for a factor, of norm 1; zero where it vanishes."""
    base = _normalized(matrix, 0)
    power = base
    for bit in bin(exponent)[3:]:
        least = len(matrix) * np.finfo(float).eps
        power = _normalized(power @ power, least)
        if bit == "1":
            power = _normalized(power @ base, least)
    return power


def _normalized(product: np.ndarray, least: float) -> np.ndarray:
    """Divided by its norm; zero where factors of norm 1 left only rounding."""
    norm = np.linalg.norm(product)
    return product / norm if norm > least else np.zeros_like(product)
