"""Targets: what a class weighs. A decomposable score is a log weight up to a constant.

Every score gives the DAGs of one class the same total (they are score equivalent), so
it is a function of the class.
"""

import math
from typing import Any, Protocol

import numpy as np

from attnchain.causal.bitsets import members
from attnchain.causal.equivalence import EquivalenceClass
from attnchain.causal.reading import read_table
from attnchain.checks import check_positive, check_whole
from attnchain.errors import ArgumentError


class Score(Protocol):
    """What the samplers need of a target; yours must be score equivalent.

    Attributes:
        names: One name for each node.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each node."""
        ...

    def local(self, node: int, parents: int) -> float:
        """Log weight of a node given the set of its parents; bit i is node i."""
        ...


def total_score(score: Score, graph: EquivalenceClass) -> float:
    """Log weight of a class: the sum over the nodes of one of its DAGs."""
    return math.fsum(score.local(v, above) for v, above in enumerate(graph.dag()))


class UniformScore:
    """Every class weighs the same.

    Args:
        n_nodes: Number of nodes.

    Raises:
        ArgumentError: Not a whole number of at least 1.
    """

    def __init__(self, n_nodes: int) -> None:
        check_whole(n_nodes, "n_nodes")
        self.names = tuple(f"x{i}" for i in range(n_nodes))

    def local(self, node: int, parents: int) -> float:
        """Zero."""
        del node, parents
        return 0.0


class GaussianBic:
    r"""Bayesian information criterion of linear Gaussian models, per class.

    A node v with k parents adds
    $-\frac N2 (1 + \ln s^2_{v|pa}) - \frac c2 (1 + k) \ln N$, where $s^2$ is the
    residual variance of its regression on them over N rows. `exp` of it is the usual
    approximation of the posterior under equal prior weights of the classes.

    Args:
        data: Rows by variables, as an array or a data frame.
        penalty: c; 1 is the criterion itself, more gives sparser graphs.

    Raises:
        ArgumentError: Values missing, not numbers or infinite; constant columns;
            columns that are linear functions of others; not more rows than columns.
    """

    def __init__(self, data: Any, *, penalty: float = 1.0) -> None:
        check_positive(penalty, "penalty")
        columns, self.names = read_table(data)
        table = _numbers(columns, self.names)
        self._rows = len(table)
        self._price = penalty * math.log(self._rows)
        self._log_variance = np.log(table.var(0))
        n = len(columns)
        self._correlation = np.corrcoef(table, rowvar=False).reshape(n, n)
        self._check_rank()

    def local(self, node: int, parents: int) -> float:
        """The node's part of the criterion; bit i of the parents is node i."""
        chosen = list(members(parents))
        left = 1.0
        if chosen:
            within = self._correlation[np.ix_(chosen, chosen)]
            with_node = self._correlation[chosen, node]
            left -= float(with_node @ np.linalg.solve(within, with_node))
        fit = 1 + float(self._log_variance[node]) + math.log(left)
        return -0.5 * (self._rows * fit + self._price * (1 + len(chosen)))

    def _check_rank(self) -> None:
        n = len(self.names)
        if self._rows <= n:
            message = (
                f"data must have more rows than variables, but has {self._rows} rows "
                f"and {n} variables: some regressions would fit exactly"
            )
            raise ArgumentError(message)
        values, vectors = np.linalg.eigh(self._correlation)
        if values[0] > 1e-10:
            return
        bound = [self.names[i] for i in np.flatnonzero(abs(vectors[:, 0]) > 1e-4)]
        message = f"columns {bound} are linear functions of each other; drop one"
        raise ArgumentError(message)


class BDeu:
    r"""Bayesian Dirichlet score of discrete data, equivalent and uniform.

    With q parent configurations and r states of node v, prior counts
    $a_{jk} = \alpha / (q r)$ and observed ones $N_{jk}$ it adds
    $\sum_j \ln\frac{\Gamma(\alpha/q)}{\Gamma(\alpha/q + N_j)} +
    \sum_{jk} \ln\frac{\Gamma(a_{jk} + N_{jk})}{\Gamma(a_{jk})}$: `exp` of the sum over
    nodes is the marginal likelihood, so with equal prior weights of the classes the
    posterior is exact. States are those seen in the data.

    Args:
        data: Rows by variables: whole numbers, truth values, strings or categories.
        equivalent_sample_size: alpha, the weight of the prior in rows.

    Raises:
        ArgumentError: Values missing or not discrete; constant columns.

    Sources:
        Heckerman, Geiger and Chickering, Machine Learning 20 (1995), 197-243.
    """

    def __init__(self, data: Any, *, equivalent_sample_size: float = 1.0) -> None:
        check_positive(equivalent_sample_size, "equivalent_sample_size")
        columns, self.names = read_table(data)
        self._alpha = float(equivalent_sample_size)
        pairs = zip(columns, self.names, strict=True)
        self._codes = [_codes(column, name) for column, name in pairs]
        self._states = [int(code.max()) + 1 for code in self._codes]

    def local(self, node: int, parents: int) -> float:
        """The node's log marginal likelihood; bit i of the parents is node i."""
        from scipy.special import gammaln

        rows = np.zeros(len(self._codes[0]), dtype=np.int64)
        log_q = 0.0
        for parent in members(parents):
            mixed = rows * self._states[parent] + self._codes[parent]
            rows = np.unique(mixed, return_inverse=True)[1].reshape(-1)
            log_q += math.log(self._states[parent])
        r = self._states[node]
        table = np.bincount(
            rows * r + self._codes[node], minlength=(rows.max() + 1) * r
        )
        table = table.reshape(-1, r)
        row_prior = self._alpha * math.exp(-log_q)
        cell_prior = row_prior / r
        seen = table[table > 0]
        by_row = gammaln(row_prior) - gammaln(row_prior + table.sum(1))
        by_cell = gammaln(cell_prior + seen) - gammaln(cell_prior)
        return float(by_row.sum() + by_cell.sum())


def _numbers(columns: list[np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    for name, column in zip(names, columns, strict=True):
        if column.dtype.kind not in "iuf":
            message = (
                f"column {name!r} must hold numbers, but has dtype {column.dtype}; for "
                "discrete data use BDeu"
            )
            raise ArgumentError(message)
        if not np.isfinite(column).all():
            raise ArgumentError(f"column {name!r} has infinite values")
    return np.stack(columns, 1).astype(float)


def _codes(column: np.ndarray, name: str) -> np.ndarray:
    if column.dtype.kind == "f":
        message = (
            f"column {name!r} must be discrete, but has dtype {column.dtype}; turn "
            "whole numbers into integers, or use GaussianBic"
        )
        raise ArgumentError(message)
    try:
        return np.unique(column, return_inverse=True)[1].reshape(-1)
    except TypeError as error:
        message = f"column {name!r} mixes types that have no order: {error}"
        raise ArgumentError(message) from error
