"""The reference itself: formulas by hand, closed-form chains, SciPy."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from tests.testing.known import KNOWN

from attnchain import reference
from attnchain.errors import NotStochasticError, ReducibleChainError, ShapeError
from attnchain.testing import chains


@pytest.fixture(params=KNOWN.values(), ids=KNOWN.keys())
def known(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def random_chain(rng, n):
    return rng.dirichlet(np.full(n, 0.3), size=n)


def test_eigenvalues_have_the_known_moduli(known):
    found = np.abs(reference.eigenvalues(known.matrix.numpy()))
    np.testing.assert_allclose(found, known.eigenvalues.abs().numpy(), atol=1e-7)


def test_stationary_is_the_known_one_or_refused(known):
    matrix = known.matrix.numpy()
    if known.stationary is None:
        with pytest.raises(ReducibleChainError, match="closed class"):
            reference.stationary(matrix)
    else:
        np.testing.assert_allclose(
            reference.stationary(matrix), known.stationary.numpy(), atol=1e-12
        )


def test_irreducibility_is_known(known):
    assert reference.is_irreducible(known.matrix.numpy()) == known.irreducible


def test_reversibility_is_known(known):
    if known.irreducible:
        assert reference.is_reversible(known.matrix.numpy()) == known.reversible


def test_attention_is_the_softmax_of_scaled_scores(rng):
    q, k = rng.normal(size=(2, 5, 3))
    np.testing.assert_allclose(
        reference.attention(q, k), scipy.special.softmax(q @ k.T / math.sqrt(3), axis=1)
    )


def test_attention_at_scores_of_ten_thousand_does_not_overflow():
    q = np.array([[100.0], [-100.0]])
    np.testing.assert_array_equal(reference.attention(q, q, scale=1.0), np.eye(2))


def test_masks_remove_keys(rng):
    q, k = rng.normal(size=(2, 4, 3))
    seen = np.tril(np.ones((4, 4), bool))
    masked = reference.attention(q, k, mask=seen)
    np.testing.assert_array_equal(masked[~seen], 0)
    np.testing.assert_array_equal(masked, reference.attention(q, k, causal=True))
    added = np.where(seen, 0.0, -np.inf)
    np.testing.assert_array_equal(masked, reference.attention(q, k, mask=added))


def test_a_row_masked_everywhere_is_refused():
    seen = np.array([[True, True], [False, False]])
    with pytest.raises(NotStochasticError, match="row 1"):
        reference.attention(np.ones((2, 1)), np.ones((2, 1)), mask=seen)


def test_a_row_without_mass_is_refused():
    with pytest.raises(NotStochasticError, match="row 0"):
        reference.normalize_rows([[0.0, 0.0], [1.0, 1.0]])


def test_restriction_of_attention_is_attention_on_the_kept_states(rng):
    q, k = rng.normal(size=(2, 6, 3))
    keep = [0, 2, 5]
    np.testing.assert_allclose(
        reference.restricted(reference.attention(q, k), keep),
        reference.attention(q[keep], k[keep]),
    )


def test_products_and_powers_multiply_left_to_right(rng):
    a, b = random_chain(rng, 4), random_chain(rng, 4)
    v = rng.dirichlet(np.ones(4))
    np.testing.assert_allclose(v @ reference.product([a, b]), (v @ a) @ b)
    np.testing.assert_allclose(
        reference.power(a, 3), np.linalg.matrix_power(a, 3), atol=1e-15
    )


def test_mixture_weights_its_parts():
    parts = [np.eye(2), np.eye(2)[::-1]]
    np.testing.assert_allclose(
        reference.mixture(parts, [0.75, 0.25]), [[0.75, 0.25], [0.25, 0.75]]
    )


def test_reversing_twice_gives_the_chain_back(rng):
    matrix = random_chain(rng, 5)
    pi = reference.stationary(matrix)
    backwards = reference.reversed_(matrix, pi)
    np.testing.assert_allclose(backwards.sum(axis=1), 1)
    np.testing.assert_allclose(reference.reversed_(backwards, pi), matrix)


def test_lazy_and_permuted_move_entries(rng):
    matrix = random_chain(rng, 3)
    assert reference.lazy(matrix, 0.25)[0, 0] == 0.25 + 0.75 * matrix[0, 0]
    assert reference.permuted(matrix, [2, 0, 1])[0, 1] == matrix[2, 0]


def test_outgoing_bounce_begins_as_normalised_column_select(rng):
    matrix = random_chain(rng, 4)
    first = reference.propagate(matrix, np.eye(4)[2], 1, direction="outgoing")[1]
    np.testing.assert_allclose(first, matrix[:, 2] / matrix[:, 2].sum())


def test_stationary_agrees_with_the_left_eigenvector(rng):
    matrix = random_chain(rng, 30)
    values, vectors = scipy.linalg.eig(matrix, left=True, right=False)
    left = np.abs(vectors[:, np.argmax(values.real)])
    np.testing.assert_allclose(reference.stationary(matrix), left / left.sum())


def test_every_closed_class_has_its_stationary_distribution():
    matrix = chains.block_diagonal(2, 2, 0.0).matrix.numpy()
    np.testing.assert_allclose(
        reference.stationary_distributions(matrix), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    )


def test_classes_of_a_chain_with_a_transient_state():
    matrix = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0.1, 0, 0.5, 0.4], [0, 0, 0, 1.0]])
    assert reference.communicating_classes(matrix) == [[0, 1], [2], [3]]
    assert reference.closed_classes(matrix) == [[0, 1], [3]]


def test_token_rank_satisfies_both_definitions(rng):
    matrix = random_chain(rng, 6)
    v = rng.dirichlet(np.ones(6))
    damped = 0.9 * matrix + 0.1 * v
    incoming = reference.token_rank(matrix, 0.9, personalization=v)
    np.testing.assert_allclose(incoming @ damped, incoming)
    outgoing = reference.token_rank(
        matrix, 0.9, direction="outgoing", personalization=v
    )
    np.testing.assert_allclose((damped / damped.sum(axis=0)) @ outgoing, outgoing)


def test_times_follow_from_the_second_eigenvalue():
    matrix = chains.two_state(0.1, 0.3).matrix.numpy()
    assert reference.second_eigenvalue(matrix) == pytest.approx(0.6)
    assert reference.spectral_gap(matrix) == pytest.approx(0.4)
    assert reference.relaxation_time(matrix) == pytest.approx(2.5)
    assert reference.implied_timescale(matrix) == pytest.approx(-1 / math.log(0.6))


def test_mixing_time_of_two_states_has_a_formula():
    # From state 1, TV(t) = pi_0 |lambda_2|^t = 0.75 * 0.6^t.
    matrix = chains.two_state(0.1, 0.3).matrix.numpy()
    expected = math.ceil(math.log(0.01 / 0.75) / math.log(0.6))
    assert reference.mixing_time(matrix, 0.01) == expected


def test_a_periodic_chain_never_mixes():
    assert reference.mixing_time(chains.cycle(4).matrix.numpy()) == math.inf


def test_lambda2_weights_follow_the_exponent():
    slow, fast = (chains.two_state(a, a).matrix.numpy() for a in (0.1, 0.3))
    np.testing.assert_allclose(
        reference.lambda2_weights([slow, fast], 2.0), np.array([0.64, 0.16]) / 0.8
    )


def test_metastable_sets_are_the_blocks():
    known = chains.block_diagonal(3, 4, 0.02)
    found = reference.metastable_sets(known.matrix.numpy(), 3)
    same = known.labels[:, None].eq(known.labels).numpy()
    np.testing.assert_array_equal(found.labels[:, None] == found.labels, same)
    np.testing.assert_allclose(found.retention, 0.98)
    np.testing.assert_allclose(found.prevalence, 1 / 3)
    np.testing.assert_allclose(found.coarse, 0.97 * np.eye(3) + 0.01, atol=1e-12)


def test_memberships_stay_in_the_invariant_subspace(rng):
    blocks = chains.block_diagonal(3, 5, 0.1).matrix.numpy()
    matrix = 0.8 * blocks + 0.2 * random_chain(rng, 15)
    basis = reference.invariant_subspace(matrix, 3)
    residual = matrix @ basis - basis @ np.linalg.lstsq(basis, matrix @ basis)[0]
    np.testing.assert_allclose(residual, 0, atol=1e-10)
    soft = reference.memberships(basis)
    assert soft.min() >= 0
    np.testing.assert_allclose(soft.sum(axis=1), 1)
    outside = soft - basis @ np.linalg.lstsq(basis, soft)[0]
    np.testing.assert_allclose(outside, 0, atol=1e-10)


def test_coarse_chain_keeps_the_leading_eigenvalues(rng):
    blocks = chains.block_diagonal(3, 5, 0.1).matrix.numpy()
    matrix = 0.8 * blocks + 0.2 * random_chain(rng, 15)
    coarse = reference.metastable_sets(matrix, 3).coarse
    np.testing.assert_allclose(coarse.sum(axis=1), 1)
    np.testing.assert_allclose(
        np.sort_complex(np.linalg.eigvals(coarse)),
        np.sort_complex(reference.eigenvalues(matrix)[:3]),
        atol=1e-10,
    )


def test_one_set_is_everything(rng):
    found = reference.metastable_sets(random_chain(rng, 4), 1)
    np.testing.assert_array_equal(found.memberships, 1)
    assert found.retention == pytest.approx(1)


def test_a_complex_pair_is_not_parted():
    matrix = chains.lazy_cycle(5).matrix.numpy()
    with pytest.raises(ShapeError, match="one more or less"):
        reference.metastable_sets(matrix, 2)


def test_metastable_sets_need_an_irreducible_chain():
    with pytest.raises(ReducibleChainError, match="irreducible"):
        reference.metastable_sets(chains.absorbing_causal(4).matrix.numpy(), 2)
