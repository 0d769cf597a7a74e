"""Quantised reverse probing: what labels explain of states (arXiv 2209.03268)."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_finite, check_positive, check_whole
from attnchain.errors import ArgumentError, ConvergenceError, ShapeError

STRENGTHS = (1.0, 30.0, 1000.0)
"""Strengths of the penalty tried, from nearly none to nearly nothing learned."""
MOST_STEPS = 2000


@dataclass(frozen=True, eq=False)
class ReverseProbe:
    """How many bits concepts tell about states, on groups not learned from.

    Attributes:
        bits: Held-out gain of the probe over knowing how frequent each state is, per
            row; below 0 where it has learned what does not hold elsewhere.
        standard_error: Of `bits`, over groups.
        entropy: Of the states, in bits: the most that could be told.
        bits_in_sample: The gain on what was learned from: too large.
        state_bits: Held-out gain over the rows of each state; nan where it has none.
        weights: Log odds that each concept adds to each state, learned from all rows.
        presence: Mean of each concept over the rows of each state; nan where it has
            none.
        prevalence: Mean of each concept over all rows.
        strengths: The penalty chosen in each fold.
        group_bits: Held-out gain of each group, summed over its rows.
        group_rows: Rows of each group.
    """

    bits: float
    standard_error: float
    entropy: float
    bits_in_sample: float
    state_bits: Float[Tensor, " states"]
    weights: Float[Tensor, "concepts states"]
    presence: Float[Tensor, "concepts states"]
    prevalence: Float[Tensor, " concepts"]
    strengths: tuple[float, ...]
    group_bits: Float[Tensor, " groups"]
    group_rows: Float[Tensor, " groups"]

    @property
    def share(self) -> float:
        """Bits over entropy; 0 where there is but one state."""
        return self.bits / self.entropy if self.entropy > 0 else 0.0

    def names(self, concepts: Sequence[str], *, most: int = 3) -> list[tuple[str, ...]]:
        """For each state the concepts that speak for it, strongest first.

        Weight times presence: what a concept adds, on average, to the log odds of the
        state's own rows. Named are those that hold there a tenth more often than
        anywhere and have a weight above 0.

        Args:
            concepts: Name of each concept.
            most: Largest number of names.

        Raises:
            ArgumentError: Not one name for each concept, or no number.
        """
        check_whole(most, "most")
        if len(concepts) != len(self.weights):
            message = (
                f"there are {len(self.weights)} concepts, but {len(concepts)} names"
            )
            raise ArgumentError(message)
        speaks = (self.presence > 1.1 * self.prevalence[:, None]) & (self.weights > 0)
        strength = torch.where(speaks, self.weights * self.presence, 0)
        order = strength.argsort(dim=0, descending=True, stable=True)[:most]
        return [
            tuple(str(concepts[i]) for i in column.tolist() if strength[i, state] > 0)
            for state, column in enumerate(order.T)
        ]

    def minus(self, other: "ReverseProbe") -> tuple[float, float]:
        """Bits more than another probe of the same groups, and its standard error.

        Args:
            other: A probe of the same rows.

        Raises:
            ArgumentError: Its groups have other numbers of rows.
        """
        if not torch.equal(self.group_rows, other.group_rows):
            raise ArgumentError("both probes must be of the same groups, row by row")
        return _mean(self.group_bits - other.group_bits, self.group_rows)


def reverse_probe(
    states: Int[Tensor, " m"],
    concepts: Tensor,
    *,
    groups: Int[Tensor, " m"],
    folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
) -> ReverseProbe:
    r"""What concepts tell about states, in bits: $I(Z; Y) \ge H(Z) - \mathrm{CE}(q)$.

    The probe is $q(z | y) \propto m_z \exp(y W)_z$, with m the frequencies of the
    states: it predicts the cluster, metastable set or arg-max of a token from what
    people call the token. Folds hold out whole groups; both the probe and m come from
    the others, so that bits of unrelated states are 0 on average. The penalty
    $\frac{\lambda}{2} \|W\|^2$ is chosen inside each fold.

    It is a lower bound, and **blind** to what is no sum: of the exclusive or of two
    concepts it finds no bit. Add products of concepts as concepts of their own.

    Args:
        states: The state of each row, 0 and up.
        concepts: Whether, or how much, each concept holds: `(m, concepts)`, boolean or
            floating.
        groups: What rows come together, such as the picture of each patch: patches of
            one picture are too alike to learn from some and test on others.
        folds: Parts of the groups, each held out once; at least 3.
        strengths: Values of lambda to choose from.

    Returns:
        `ReverseProbe`.

    Raises:
        ShapeError: Lengths or dtypes do not fit.
        ArgumentError: Too few groups or folds, negative states, no strength.
        NotStochasticError: Concepts are infinite or not numbers.
        ConvergenceError: A fit did not converge.

    Sources:
        Laina, Asano and Vedaldi, arXiv 2209.03268. Their settings are not published;
        the penalty, the frequencies and the split by group are ours.

    Example:
        >>> import torch
        >>> said = torch.arange(400) % 2 == 0
        >>> probe = reverse_probe(said.long(), said[:, None], groups=torch.arange(400))
        >>> f"{probe.bits:.2f} of {probe.entropy:.2f}", probe.names(["even"])
        ('0.96 of 1.00', [(), ('even',)])
    """
    table = _Table.of(states, concepts, groups)
    check_whole(folds, "folds", least=3)
    _check_strengths(strengths)
    if len(table.group_rows) < folds:
        message = f"{folds} folds need as many groups, but there are {table!r}"
        raise ArgumentError(message)
    return _result(table, *_cross_validated(table, folds, strengths))


def ablate(
    states: Int[Tensor, " m"],
    concepts: Tensor,
    families: Mapping[str, Sequence[int]],
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Bits that are lost where a family of concepts is left out, each with its error.

    Families that tell the same lose nothing when one is left out.

    Args:
        states: As of `reverse_probe`.
        concepts: As of `reverse_probe`.
        families: Name of each family and the columns of its concepts.
        **options: `groups` and others of `reverse_probe`.

    Returns:
        For each family the bits lost and their standard error, over groups.

    Raises:
        ArgumentError: A family has a concept that there is not, or all of them.
    """
    number = concepts.shape[-1]
    whole = reverse_probe(states, concepts, **options)
    lost = {}
    for name, columns in families.items():
        rest = [i for i in range(number) if i not in columns]
        if not rest or not set(columns) <= set(range(number)):
            message = (
                f"family {name!r} must be some of the concepts 0 to {number - 1}, and "
                f"leave one, but is {list(columns)!r}"
            )
            raise ArgumentError(message)
        lost[name] = whole.minus(reverse_probe(states, concepts[:, rest], **options))
    return lost


@dataclass(frozen=True, eq=False)
class _Table:
    """Rows as numbers: state, kind of concepts, and group.

    Attributes:
        state: State of each row.
        kind: Which of the `kinds` each row is.
        group: Number of each row's group.
        kinds: Distinct rows of concepts, and a column of ones.
        n_states: Number of states.
    """

    state: np.ndarray
    kind: np.ndarray
    group: np.ndarray
    kinds: np.ndarray
    n_states: int

    def __repr__(self) -> str:
        return f"{len(self.group_rows)} groups of {len(self.state)} rows"

    @classmethod
    def of(cls, states: Tensor, concepts: Tensor, groups: Tensor) -> "_Table":
        """The rows, checked."""
        _check(states, concepts, groups)
        values = concepts.detach().cpu().double().numpy()
        kinds, kind = np.unique(values, axis=0, return_inverse=True)
        _, group = np.unique(groups.cpu().numpy(), return_inverse=True)
        kinds = np.concatenate([kinds, np.ones((len(kinds), 1))], axis=1)
        state = states.cpu().numpy()
        return cls(state, kind.reshape(-1), group, kinds, int(state.max()) + 1)

    @property
    def group_rows(self) -> np.ndarray:
        return np.bincount(self.group)

    def rows(self, groups: np.ndarray) -> np.ndarray:
        """Which rows are of some groups, given as a mask."""
        return groups[self.group]


def _counts(table: _Table, groups: np.ndarray) -> np.ndarray:
    """How often each kind of row has each state, in some groups."""
    rows = table.rows(groups)
    place = table.kind[rows] * table.n_states + table.state[rows]
    size = len(table.kinds) * table.n_states
    return np.bincount(place, minlength=size).reshape(-1, table.n_states).astype(float)


def _log_frequencies(counts: np.ndarray) -> np.ndarray:
    """Of the states; half a row is added to each, as one may be new elsewhere."""
    seen = counts.sum(0) + 0.5
    return np.log(seen / seen.sum())


def _log_probabilities(
    kinds: np.ndarray, base: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    scores = base + kinds @ weights
    top = scores.max(-1, keepdims=True)
    return scores - top - np.log(np.exp(scores - top).sum(-1, keepdims=True))


def _fit(kinds: np.ndarray, counts: np.ndarray, strength: float) -> np.ndarray:
    """The weights of least penalised cross-entropy."""
    from scipy import optimize

    base, rows = _log_frequencies(counts), counts.sum(-1, keepdims=True)
    shape = (kinds.shape[1], counts.shape[1])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        log_q = _log_probabilities(kinds, base, weights)
        slope = kinds.T @ (rows * np.exp(log_q) - counts) + strength * weights
        value = -(counts * log_q).sum() + strength / 2 * (weights**2).sum()
        return value / rows.sum(), slope.ravel() / rows.sum()

    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "gtol": 1e-7}
    start = np.zeros(shape[0] * shape[1])
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    if not found.success:
        message = (
            f"the probe of {shape[0] - 1} concepts and {shape[1]} states stopped after "
            f"{found.nit} steps: {found.message}; raise the strengths"
        )
        raise ConvergenceError(message, found)
    return found.x.reshape(shape)


def _gains(
    table: _Table, rows: np.ndarray, counts: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Bits by which each row is likelier under the probe than by frequency."""
    base = _log_frequencies(counts)
    gain = (_log_probabilities(table.kinds, base, weights) - base) / math.log(2)
    return gain[table.kind[rows], table.state[rows]]


def _mean(sums: Tensor, rows: Tensor) -> tuple[float, float]:
    """Mean per row and its standard error, groups drawn independently."""
    mean = float(sums.sum() / rows.sum())
    n = len(rows)
    spread = (sums - rows * mean).square().sum() * n / (n - 1)
    return mean, float(spread.sqrt() / rows.sum())


def _cross_validated(
    table: _Table, folds: int, strengths: Sequence[float]
) -> tuple[np.ndarray, list[float]]:
    """Held-out gain of each row, and the strength chosen in each fold."""
    fold = np.arange(len(table.group_rows)) % folds
    gains, chosen = np.zeros(len(table.state)), []
    for number in range(folds):
        inner = _counts(table, ~np.isin(fold, (number, (number + 1) % folds)))
        check = table.rows(fold == (number + 1) % folds)
        found = [_fit(table.kinds, inner, s) for s in strengths]
        scores = [_gains(table, check, inner, w).sum() for w in found]
        chosen.append(strengths[int(np.argmax(scores))])
        outer, held = _counts(table, fold != number), table.rows(fold == number)
        weights = _fit(table.kinds, outer, chosen[-1])
        gains[held] = _gains(table, held, outer, weights)
    return gains, chosen


def _result(table: _Table, gains: np.ndarray, chosen: list[float]) -> ReverseProbe:
    """What was found, beside a fit of everything."""
    everything = np.ones(len(table.group_rows), dtype=bool)
    counts = _counts(table, everything)
    weights = _fit(table.kinds, counts, Counter(chosen).most_common(1)[0][0])
    inside = _gains(table, table.rows(everything), counts, weights)
    group_bits = torch.from_numpy(np.bincount(table.group, gains))
    group_rows = torch.from_numpy(table.group_rows).double()
    bits, error = _mean(group_bits, group_rows)
    seen = np.bincount(table.state, minlength=table.n_states)
    sums = torch.from_numpy(np.bincount(table.state, gains, table.n_states))
    shares = seen[seen > 0] / seen.sum()
    held = torch.from_numpy(table.kinds[:, :-1].T @ counts)
    return ReverseProbe(
        bits=bits,
        standard_error=error,
        entropy=float(-(shares * np.log2(shares)).sum()),
        bits_in_sample=float(inside.mean()),
        state_bits=sums / torch.from_numpy(seen),
        weights=torch.from_numpy(weights[:-1]),
        presence=held / torch.from_numpy(seen),
        prevalence=held.sum(1) / len(table.state),
        strengths=tuple(chosen),
        group_bits=group_bits,
        group_rows=group_rows,
    )


def _check_strengths(strengths: Sequence[float]) -> None:
    if not len(strengths):
        raise ArgumentError("strengths must hold at least one number")
    for strength in strengths:
        check_positive(strength, "a strength")


def _check(states: Tensor, concepts: Tensor, groups: Tensor) -> None:
    """Raises unless there is a state, a row of concepts and a group for each row."""
    for given, name in ((states, "states"), (concepts, "concepts"), (groups, "groups")):
        if not isinstance(given, Tensor):
            message = f"{name} must be a torch tensor, but is {type(given).__name__}"
            raise ArgumentError(message)
    whole = not (
        states.is_floating_point() or groups.is_floating_point() or states.is_complex()
    )
    fit = states.ndim == 1 and concepts.ndim == 2 and states.shape == groups.shape
    if not (whole and fit and len(concepts) == len(states) and concepts.shape[1]):
        message = (
            f"expected whole states (m,) and groups (m,) and concepts (m, c), but got "
            f"{states.dtype} {tuple(states.shape)}, {groups.dtype} "
            f"{tuple(groups.shape)} and {tuple(concepts.shape)}"
        )
        raise ShapeError(message)
    if not len(states) or int(states.min()) < 0:
        raise ArgumentError("states must be numbers from 0 up, and at least one")
    if concepts.dtype != torch.bool:
        check_finite(concepts, "concepts")
