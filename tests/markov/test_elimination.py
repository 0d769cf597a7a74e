"""eliminate: every digit, on exact fractions, closed forms and at both block sizes."""

from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from tests.operators.builders import random_rows

from attnchain.markov.solvers import elimination
from attnchain.markov.solvers.elimination import eliminate, rounding_bound
from attnchain.testing import chains, strategies


def exact(matrix):
    """Stationary distribution in exact fractions of the given numbers, rows divided."""
    rows = [[Fraction(float(x)) for x in row] for row in matrix]
    rows = [[x / sum(row) for x in row] for row in rows]
    n = len(rows)
    system = [
        [rows[j][i] - (i == j) for j in range(n)] + [Fraction(0)] for i in range(n)
    ]
    system[-1] = [Fraction(1)] * (n + 1)
    for k in range(n):
        pivot = next(i for i in range(k, n) if system[i][k] != 0)
        system[k], system[pivot] = system[pivot], system[k]
        system[k] = [x / system[k][k] for x in system[k]]
        for i in range(n):
            if i != k and system[i][k] != 0:
                factor = system[i][k]
                pairs = zip(system[i], system[k], strict=True)
                system[i] = [x - factor * y for x, y in pairs]
    return [row[n] for row in system]


def worst_digit(found, expected):
    """Largest relative error of an entry."""
    pairs = zip(found.tolist(), expected, strict=True)
    return max(abs(float(Fraction(x) / y - 1)) for x, y in pairs)


@pytest.mark.parametrize("block", [1, 3, 64])
@given(strategies.positive_matrices(), st.floats(0, 40), st.data())
def test_every_entry_is_right_to_its_leading_digits(block, matrix, nats, data):
    n = len(matrix)
    rare = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    weights = torch.where(rare[:, None] == rare, 0.0, -nats).double().exp()
    matrix = matrix * weights
    matrix = matrix / matrix.sum(-1, keepdim=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elimination, "BLOCK", block)
        found = eliminate(matrix)
    assert worst_digit(found, exact(matrix)) < 1e-13


def test_a_matrix_is_left_as_it_was():
    matrix = torch.from_numpy(random_rows(5, 5))
    before = matrix.clone()
    eliminate(matrix)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("n", [2, 63, 64, 65, 130])
@pytest.mark.parametrize(("up", "down"), [(0.3, 0.2), (0.01, 0.6), (0.6, 0.01)])
def test_drifts_of_closed_form(n, up, down):
    known = chains.birth_death(n, up, down)
    found = eliminate(known.matrix)
    torch.testing.assert_close(found, known.stationary, rtol=1e-12, atol=0)


@pytest.mark.parametrize("ratio", [1e-5, 1e-12])
def test_drifts_whose_masses_span_more_than_float64(ratio):
    n = 130
    matrix = torch.zeros(n, n).double()
    matrix.diagonal(1).fill_(ratio)
    matrix.diagonal(-1).fill_(1 - ratio)
    matrix += torch.diag(1 - matrix.sum(-1))
    for chain, most in ((matrix, 0), (matrix.flip(0, 1), n - 1)):
        found = eliminate(chain)
        assert float(found[most]) == pytest.approx(1 - ratio / (1 - ratio))


def test_a_block_that_is_hardly_ever_left_by_its_own_states():
    """Each state of a ladder is climbed with 1e-8: a visit lasts for 1e(8 * 64)."""
    n = 129
    matrix = torch.zeros(n, n).double()
    matrix.diagonal(-1).fill_(1e-8)
    matrix.diagonal(1).fill_(1 - 1e-8)
    matrix += torch.diag(1 - matrix.sum(-1))
    for bottom in (0, 40, 128):
        found = eliminate(matrix.roll((bottom, bottom), (0, 1)))
        top = (bottom + n - 1) % n
        assert float(found[top]) == pytest.approx(1 - 1e-8)


def test_transient_states_hold_nothing():
    matrix = torch.tensor([[0.5, 0.25, 0.25], [0, 0.5, 0.5], [0, 1.0, 0]]).double()
    found = eliminate(matrix)
    torch.testing.assert_close(found, torch.tensor([0, 2 / 3, 1 / 3]).double())


@pytest.mark.parametrize("size", [2, 70])
def test_several_closed_classes_are_told(size):
    assert eliminate(torch.eye(size).double()) is None


@pytest.mark.parametrize("n", [2, 20, 150])
def test_the_rounding_bound_holds_and_says_something(n):
    matrix = torch.from_numpy(random_rows(n, n))
    found, other = eliminate(matrix), eliminate(matrix.flip(0, 1)).flip(0)
    assert float((found - other).abs().sum()) <= rounding_bound(n) < 1e-8
