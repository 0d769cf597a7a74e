"""What holds for every chain holds on the kinds of chains that break numerics."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.oracles import enclosures

from attnchain import markov, reference
from attnchain.errors import ChainError
from attnchain.operators import (
    ColumnNormalized,
    Damped,
    Lazy,
    Mixture,
    Permuted,
    Power,
    Product,
    Restricted,
    as_transition,
)
from attnchain.testing import assert_adjoint, assert_stochastic, strategies
from attnchain.testing.hard import HARD

matrices = strategies.hard_matrices()
dampings = st.sampled_from([0.5, 0.85, 0.99, 0.9999])
ROUNDING = 1e-12

OPERATORS = {
    "stored": lambda chain, _: chain,
    "damped": lambda chain, _: Damped(chain, 0.99),
    "lazy": lambda chain, _: Lazy(chain, 0.25),
    "power": lambda chain, _: Power(chain, 3),
    "permuted": Permuted,
    "product": lambda chain, order: Product([chain, Permuted(chain, order)]),
    "mixture": lambda chain, order: Mixture(
        [chain, Permuted(chain, order)], [torch.tensor(w).double() for w in (0.3, 0.7)]
    ),
    "restricted": lambda chain, order: Restricted(
        Damped(chain, 0.9), order[: 1 + len(order) // 2]
    ),
    "columns": lambda chain, _: ColumnNormalized(Damped(chain, 0.9999)),
}


def orders(data, n):
    return torch.tensor(data.draw(st.permutations(range(n))))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
def test_every_operator_keeps_its_laws(name):
    @settings(max_examples=30)
    @given(matrices, st.data())
    def laws(matrix, data):
        chain = OPERATORS[name](as_transition(matrix), orders(data, len(matrix)))
        assert_stochastic(chain, atol=1e-11)
        assert_adjoint(chain, rtol=1e-12)
        try:
            found = markov.second_eigenvalue(chain)
        except ChainError:
            return
        assert 0 <= float(found.modulus) <= 1 + ROUNDING

    laws()


@settings(max_examples=150)
@given(matrices, dampings, st.booleans())
def test_damped_answers_lie_within_their_bound(matrix, damping, outgoing):
    chain = Damped(as_transition(matrix), damping)
    exact = enclosures.damped(enclosures.divided(enclosures.given(matrix)), damping)
    if outgoing:
        chain, exact = ColumnNormalized(chain), enclosures.column_normalized(exact)
    assert_certified(chain, exact)


@settings(max_examples=150)
@given(matrices, st.booleans())
def test_undamped_answers_lie_within_their_bound(matrix, outgoing):
    chain, exact = as_transition(matrix), enclosures.divided(enclosures.given(matrix))
    if outgoing and bool((matrix.sum(0) == 0).any()):
        return
    if outgoing:
        chain, exact = ColumnNormalized(chain), enclosures.column_normalized(exact)
    assert_certified(chain, exact)


def assert_certified(chain, exact):
    """Refused, or within a bound that meets the tolerance."""
    try:
        found = markov.stationary(chain)
    except ChainError:
        return
    bound = float(found.error_bound)
    assert bound <= 1e-6
    enclosures.assert_within(found.distribution, enclosures.stationary(exact), bound)


@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
@settings(max_examples=200)
@given(matrices)
def test_the_second_eigenvalue_is_as_exact_as_it_says(matrix):
    """Its estimate is one of first order: a factor of ten is left to it."""
    try:
        found = markov.second_eigenvalue(as_transition(matrix))
    except ChainError:
        return
    error = abs(float(found.modulus) - abs(enclosures.eigenvalues(matrix)[1]))
    assert error <= 10 * float(found.error_estimate)
    assert 0 <= float(found.modulus) <= 1 + ROUNDING


@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
@given(matrices, st.data())
def test_renaming_the_states_renames_every_answer(matrix, data):
    order = orders(data, len(matrix))
    pair = as_transition(matrix), as_transition(matrix[order][:, order])
    stationary = [answer(markov.stationary, chain) for chain in pair]
    assert_same(*stationary, lambda x: x.distribution, lambda x: x[order], 2e-6)
    second = [answer(markov.second_eigenvalue, chain) for chain in pair]
    assert_same(*second, lambda x: x.modulus, lambda x: x, allowed(second))


def allowed(pair):
    return 10 * sum(float(getattr(x, "error_estimate", 0)) for x in pair)


def answer(question, chain):
    try:
        return question(chain)
    except ChainError as error:
        return type(error)


def assert_same(first, second, value, moved, atol):
    """Both refused, or the same answer."""
    if isinstance(first, type) or isinstance(second, type):
        assert first == second
    else:
        torch.testing.assert_close(
            value(second), moved(value(first)), atol=atol, rtol=0
        )


QUESTIONS = {
    "stationary": lambda chain: [markov.stationary(chain).distribution],
    "outgoing": lambda chain: [markov.stationary(ColumnNormalized(chain)).distribution],
    "damped": lambda chain: [markov.stationary(Damped(chain, 0.99)).distribution],
    "rank_outgoing": lambda chain: [
        markov.stationary(ColumnNormalized(Damped(chain, 0.99))).distribution
    ],
    "spectrum": lambda chain: [markov.spectrum(chain, 2).eigenvalues.abs()],
    "second": lambda chain: [markov.second_eigenvalue(chain).modulus],
    "gap": lambda chain: [markov.spectral_gap(chain)],
    "subspaces": lambda chain: vars_of(markov.leading_subspaces(chain)),
    "sets": lambda chain: vars_of(markov.metastable_sets(chain, 2)),
    "incoming_bounce": lambda chain: [markov.propagate(chain, 0, 2)],
    "outgoing_bounce": lambda chain: [
        markov.propagate(chain, 0, 2, direction="outgoing")
    ],
}


def vars_of(result):
    values = [
        value for value in vars(result).values() if isinstance(value, torch.Tensor)
    ]
    return [value for value in values if value.is_floating_point()]


@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_finite_or_refused(name):
    @settings(max_examples=60)
    @given(matrices)
    def finite(matrix):
        try:
            values = QUESTIONS[name](as_transition(matrix))
        except ChainError:
            return
        for value in values:
            assert not value.isnan().any()

    finite()


@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n", [121, 150, 268])
@pytest.mark.parametrize("kind", HARD)
def test_second_eigenvalues_of_chains_too_large_for_a_factorisation(kind, n, dtype):
    matrix = HARD[kind](n, torch.Generator().manual_seed(n)).to(dtype)
    try:
        found = markov.second_eigenvalue(as_transition(matrix))
    except ChainError:
        return
    error = abs(float(found.modulus) - second_modulus(kind, matrix.double()))
    assert error <= 10 * float(found.error_estimate) + 1e-11
    assert 0 <= float(found.modulus) <= 1 + ROUNDING


def second_modulus(kind, matrix):
    """By LAPACK; of a walk by that of the symmetric matrix it is similar to."""
    rows = (matrix / matrix.sum(1, keepdim=True)).numpy()
    if kind == "drift":
        return np.sort(np.abs(np.linalg.eigvalsh(np.sqrt(rows * rows.T))))[-2]
    return abs(reference.second_eigenvalue(rows))
