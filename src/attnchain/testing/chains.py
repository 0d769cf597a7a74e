"""Chains whose stationary distribution and eigenvalues are closed formulas."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attnchain.checks import check_fraction
from attnchain.errors import ShapeError


@dataclass(frozen=True, eq=False)
class KnownChain:
    """A transition matrix together with what is known about it.

    Attributes:
        matrix: `(n, n)`, float64.
        eigenvalues: `(n,)`, complex128, largest modulus first.
        stationary: `(n,)`, or None where it is not unique.
        irreducible: Whether every state can reach every other one.
        period: Greatest common divisor of the lengths of its cycles.
        reversible: Whether it is irreducible and flows between two states are equal
            both ways.
        labels: `(n,)`, the metastable set of each state, where there are such sets.
    """

    matrix: Tensor
    eigenvalues: Tensor
    stationary: Tensor | None
    irreducible: bool = True
    period: int = 1
    reversible: bool = True
    labels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PaperToy:
    """The five-state example of the paper's project page.

    Attributes:
        matrix: `(5, 5)`, entries with two digits as printed there.
        from_state_4: `(3, 5)`, distributions after 0, 1, 2 bounces, two digits.
        from_uniform: `(3, 5)`, the same from the uniform distribution, two digits.
        stationary: `(5,)`, printed, two digits.
        incoming: `(5,)`, stationary with damping 0.99, from the matrix, four digits.
        outgoing: `(5,)`, stationary of the undamped column-normalised chain, likewise.
        undamped: `(5,)`, stationary without damping, likewise.
        moduli: `(5,)`, moduli of the eigenvalues, likewise.
    """

    matrix: Tensor
    from_state_4: Tensor
    from_uniform: Tensor
    stationary: Tensor
    incoming: Tensor
    outgoing: Tensor
    undamped: Tensor
    moduli: Tensor


def two_state(a: float, b: float) -> KnownChain:
    """Two states, left with probabilities a and b.

    `pi = (b, a) / (a + b)`, `lambda_2 = 1 - a - b`.

    Sources:
        Levin and Peres, Markov Chains and Mixing Times, 2nd ed., example 1.1.

    Example:
        >>> two_state(0.1, 0.3).stationary
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    check_fraction(a, "a", zero=True)
    check_fraction(b, "b", zero=True)
    return KnownChain(
        matrix=_float64([[1 - a, a], [b, 1 - b]]),
        eigenvalues=_float64([1.0, 1 - a - b]).to(torch.complex128),
        stationary=_float64([b, a]) / (a + b) if a + b > 0 else None,
        irreducible=a > 0 and b > 0,
        reversible=a > 0 and b > 0,
        period=2 if a == b == 1 else 1,
    )


def cycle(n: int) -> KnownChain:
    """Deterministic round trip `i -> i + 1 mod n`: period n, all |lambda| = 1."""
    return lazy_cycle(n, holding=0.0)


def lazy_cycle(n: int, holding: float = 0.5) -> KnownChain:
    """Round trip that waits: stay with probability `holding`, else `i -> i + 1`.

    `pi` is uniform; `lambda_k = holding + (1 - holding) exp(2 pi i k / n)`. Not
    reversible for n > 2, so the eigenvalues are complex.

    Example:
        >>> lazy_cycle(4).eigenvalues[1].abs()
        tensor(0.7071, dtype=torch.float64)
    """
    if not 0 <= holding < 1:
        raise ShapeError(f"holding must lie in [0, 1), but is {holding!r}")
    identity = torch.eye(n, dtype=torch.float64)
    angles = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    turns = torch.polar(torch.ones_like(angles), angles)
    return KnownChain(
        matrix=holding * identity + (1 - holding) * identity.roll(1, dims=1),
        eigenvalues=_by_modulus(holding + (1 - holding) * turns),
        stationary=torch.full((n,), 1 / n, dtype=torch.float64),
        period=n if holding == 0 else 1,
        reversible=n <= 2,
    )


def birth_death(n: int, up: float = 0.3, down: float = 0.2) -> KnownChain:
    """Walk on 0 .. n - 1: one up with `up`, one down with `down`, else stay.

    A step over either end is not taken. `pi_k` is proportional to `(up / down)^k`;
    the eigenvalues are 1 and `1 - up - down + 2 sqrt(up down) cos(k pi / n)` for
    k = 1 .. n - 1. Reversible.

    Sources:
        Feller, An Introduction to Probability Theory and Its Applications, vol. 1,
        3rd ed., section XVI.3 (reflecting barriers).

    Example:
        >>> birth_death(3, 0.4, 0.2).stationary
        tensor([0.1429, 0.2857, 0.5714], dtype=torch.float64)
    """
    check_fraction(up, "up")
    check_fraction(down, "down")
    check_fraction(up + down, "up + down")
    steps = torch.arange(n, dtype=torch.float64)
    moves = torch.diag(torch.full((n - 1,), up, dtype=torch.float64), 1)
    moves = moves + torch.diag(torch.full((n - 1,), down, dtype=torch.float64), -1)
    masses = (up / down) ** steps
    inner = 2 * math.sqrt(up * down) * torch.cos(steps[1:] * math.pi / n)
    values = torch.cat([torch.ones(1, dtype=torch.float64), 1 - up - down + inner])
    return KnownChain(
        matrix=moves + torch.diag(1 - moves.sum(1)),
        eigenvalues=_by_modulus(values),
        stationary=masses / masses.sum(),
        period=2 if n == 2 and up == down == 1 else 1,
    )


def block_diagonal(blocks: int, size: int, coupling: float = 0.01) -> KnownChain:
    """Symmetric chain of equal blocks that are left with probability `coupling`.

    Inside a block every state is equally likely, outside too. The eigenvalues are 1,
    `1 - coupling blocks / (blocks - 1)` (blocks - 1 times), and 0. With no coupling
    the chain falls apart and `pi` is not unique.

    Example:
        >>> block_diagonal(2, 3, coupling=0.1).eigenvalues.real
        tensor([1.0000, 0.8000, 0.0000, 0.0000, 0.0000, 0.0000], dtype=torch.float64)
    """
    if blocks < 2:
        raise ShapeError(f"expected at least 2 blocks, got {blocks}")
    check_fraction(coupling, "coupling", zero=True)
    n = blocks * size
    labels = torch.arange(n) // size
    same = (labels[:, None] == labels).to(torch.float64)
    matrix = (1 - coupling) * same / size + coupling * (1 - same) / (n - size)
    values = torch.zeros(n, dtype=torch.float64)
    values[:blocks] = 1 - coupling * blocks / (blocks - 1)
    values[0] = 1.0
    return KnownChain(
        matrix=matrix,
        eigenvalues=_by_modulus(values),
        stationary=torch.full((n,), 1 / n, dtype=torch.float64) if coupling else None,
        irreducible=coupling > 0,
        reversible=coupling > 0,
        labels=labels,
    )


def rank_one(distribution: Tensor) -> KnownChain:
    """Every row is the same positive distribution: mixed after one bounce.

    Example:
        >>> rank_one(torch.tensor([0.25, 0.75])).matrix
        tensor([[0.2500, 0.7500],
                [0.2500, 0.7500]], dtype=torch.float64)
    """
    pi = distribution.to(torch.float64)
    values = torch.zeros(len(pi), dtype=torch.complex128)
    values[0] = 1.0
    return KnownChain(
        matrix=pi.repeat(len(pi), 1),
        eigenvalues=values,
        stationary=pi,
        irreducible=bool((pi > 0).all()),
        reversible=bool((pi > 0).all()),
    )


def absorbing_causal(n: int) -> KnownChain:
    """Causal attention with equal scores: `P[i, j] = 1 / (i + 1)` for `j <= i`.

    State 0 absorbs everything; the eigenvalues are the diagonal `1 / (i + 1)`.

    Example:
        >>> absorbing_causal(3).eigenvalues.real
        tensor([1.0000, 0.5000, 0.3333], dtype=torch.float64)
    """
    diagonal = 1 / torch.arange(1, n + 1, dtype=torch.float64)
    pi = torch.zeros(n, dtype=torch.float64)
    pi[0] = 1.0
    return KnownChain(
        matrix=torch.ones(n, n, dtype=torch.float64).tril() * diagonal[:, None],
        eigenvalues=diagonal.to(torch.complex128),
        stationary=pi,
        irreducible=n == 1,
        reversible=n == 1,
    )


def paper_toy() -> PaperToy:
    """Five states where the column sum ranks 0 first but TokenRank ranks 4 first.

    Sources:
        Figure on the project page of Erel et al., Attention (as Discrete-Time Markov)
        Chains, arXiv 2507.17657. Four-digit vectors are recomputed from the entries.
    """
    return PaperToy(
        matrix=_float64(
            [
                [0.01, 0.04, 0.02, 0.85, 0.08],
                [0.82, 0.04, 0.07, 0.01, 0.06],
                [0.80, 0.07, 0.03, 0.05, 0.05],
                [0.06, 0.06, 0.03, 0.04, 0.81],
                [0.53, 0.03, 0.03, 0.06, 0.35],
            ]
        ),
        from_state_4=_float64(
            [
                [0.0, 0.0, 0.0, 0.0, 1.0],
                [0.53, 0.03, 0.03, 0.06, 0.35],
                [0.24, 0.04, 0.03, 0.48, 0.22],
            ]
        ),
        from_uniform=_float64(
            [
                [0.2, 0.2, 0.2, 0.2, 0.2],
                [0.44, 0.05, 0.04, 0.20, 0.27],
                [0.23, 0.04, 0.03, 0.40, 0.30],
            ]
        ),
        stationary=_float64([0.27, 0.04, 0.03, 0.27, 0.38]),
        incoming=_float64([0.2782, 0.0442, 0.0307, 0.2711, 0.3758]),
        outgoing=_float64([0.2342, 0.2050, 0.1924, 0.1991, 0.1693]),
        undamped=_float64([0.2779, 0.0425, 0.0289, 0.2717, 0.3789]),
        moduli=_float64([1.0, 0.6261, 0.6261, 0.0607, 0.0358]),
    )


def _float64(numbers: list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _by_modulus(values: Tensor) -> Tensor:
    """Largest modulus first, complex128."""
    values = values.to(torch.complex128)
    return values[values.abs().argsort(descending=True, stable=True)]
