"""Scores against plain formulas, equal over the DAGs of a class; data refused."""

import math
from itertools import product

import numpy as np
import pytest
from tests.causal import oracle
from tests.causal.data import discrete, gaussian

from attnchain.causal import BDeu, GaussianBic, UniformScore, total_score
from attnchain.errors import ArgumentError


def bic_by_regression(table, node, parents, penalty):
    rows = len(table)
    chosen = [v for v in range(table.shape[1]) if parents >> v & 1]
    design = np.column_stack([np.ones(rows), table[:, chosen]])
    fit = np.linalg.lstsq(design, table[:, node], rcond=None)[0]
    variance = np.mean((table[:, node] - design @ fit) ** 2)
    price = penalty * (1 + len(chosen)) * math.log(rows)
    return 0.5 * (-rows * (1 + math.log(variance)) - price)


def bdeu_by_cells(table, node, parents, alpha):
    chosen = [v for v in range(table.shape[1]) if parents >> v & 1]
    states = [np.unique(column) for column in table.T]
    r, q = len(states[node]), math.prod(len(states[v]) for v in chosen)
    total = 0.0
    for row in product(*(states[v] for v in chosen)):
        here = np.all(table[:, chosen] == np.array(row, dtype=int), axis=1)
        total += math.lgamma(alpha / q) - math.lgamma(alpha / q + here.sum())
        for state in states[node]:
            prior = alpha / (q * r)
            count = np.sum(here & (table[:, node] == state))
            total += math.lgamma(prior + count) - math.lgamma(prior)
    return total


@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_bic_is_that_of_least_squares(penalty):
    table = gaussian()
    score = GaussianBic(3 * table + 1, penalty=penalty)
    for node in range(4):
        for parents in range(16):
            if parents >> node & 1:
                continue
            expected = bic_by_regression(3 * table + 1, node, parents, penalty)
            assert score.local(node, parents) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 10.0])
def test_bdeu_is_the_sum_over_cells(alpha):
    table = discrete()
    score = BDeu(table, equivalent_sample_size=alpha)
    for node in range(4):
        for parents in range(16):
            if parents >> node & 1:
                continue
            expected = bdeu_by_cells(table, node, parents, alpha)
            assert score.local(node, parents) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("score", [GaussianBic(gaussian()), BDeu(discrete())])
def test_equivalent_dags_score_the_same(score):
    for graph, members in oracle.classes(4).items():
        for dag in members:
            total = sum(score.local(v, mask) for v, mask in enumerate(dag))
            assert total == pytest.approx(total_score(score, graph), abs=1e-9)


def test_data_frames_keep_their_names():
    pandas = pytest.importorskip("pandas")
    table = gaussian(n=3)
    frame = pandas.DataFrame(table, columns=["a", "b", "c"])
    assert GaussianBic(frame).names == ("a", "b", "c")
    assert GaussianBic(frame).local(2, 3) == GaussianBic(table).local(2, 3)
    letters = pandas.DataFrame({"u": list("abab"), "v": [True, False, False, True]})
    letters["w"] = pandas.Categorical(["x", "x", "y", "y"])
    codes = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1]])
    assert BDeu(letters).local(0, 6) == BDeu(codes).local(0, 6)


def with_value(table, value):
    table = table.astype(float)
    table[3, 1] = value
    return table


def collinear():
    table = gaussian()
    return np.column_stack([table, table[:, 0] - 2 * table[:, 2]])


def constant(table):
    table = table.copy()
    table[:, 2] = 1
    return table


@pytest.mark.parametrize("score", [GaussianBic, BDeu])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            with_value(gaussian(), np.nan),
            "'x1' has 1 missing values, the first in row 3",
        ),
        ([[1, None], [2, 3]], "'x1' has 1 missing"),
        (constant(discrete()), "'x2' is constant"),
        (np.zeros(3), "rows by variables"),
        (np.zeros((1, 3)), "at least one variable and two rows"),
        (np.zeros((5, 0)), "at least one variable and two rows"),
        ([[1, 2], [3]], "equal length"),
    ],
)
def test_data_that_cannot_be_scored_are_refused(score, data, message):
    with pytest.raises(ArgumentError, match=message):
        score(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_value(gaussian(), np.inf), "'x1' has infinite values"),
        (collinear(), r"\['x0', 'x2', 'x4'\] are linear functions of each other"),
        (gaussian(rows=4), "more rows than variables"),
        ([["a", "b"], ["c", "d"], ["e", "f"]], "must hold numbers"),
    ],
)
def test_what_is_not_gaussian_is_refused(data, message):
    with pytest.raises(ArgumentError, match=message):
        GaussianBic(data)


def test_what_is_not_discrete_is_refused():
    with pytest.raises(ArgumentError, match="must be discrete"):
        BDeu(gaussian())
    mixed = np.array([["a", 1], [2, 1], ["b", 0]], dtype=object)
    with pytest.raises(ArgumentError, match="mixes types"):
        BDeu(mixed)


def test_two_columns_of_one_name_and_pandas_missing_are_refused():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([[1, 2], [3, 4]], columns=["a", "a"])
    with pytest.raises(ArgumentError, match=r"several columns named \['a'\]"):
        BDeu(frame)
    holes = pandas.DataFrame({"a": pandas.array([1, None, 2], dtype="Int64")})
    with pytest.raises(ArgumentError, match="1 missing values, the first in row 1"):
        BDeu(holes)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "1"])
def test_settings_are_checked(value):
    with pytest.raises(ArgumentError, match="penalty"):
        GaussianBic(gaussian(), penalty=value)
    with pytest.raises(ArgumentError, match="equivalent_sample_size"):
        BDeu(discrete(), equivalent_sample_size=value)
    with pytest.raises(ArgumentError, match="n_nodes"):
        UniformScore(value)
