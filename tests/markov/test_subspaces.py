"""leading_subspaces: both sides, and a certificate that holds."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from tests.operators.builders import attention, queries_and_keys, random_rows
from tests.testing.known import KNOWN

from attnchain import reference
from attnchain.errors import ArgumentError, NumericalWarning, ShapeError
from attnchain.markov import (
    leading_subspaces,
    second_eigenvalue,
    spectrum,
    stationary,
)
from attnchain.operators import AttentionTransition, DenseTransition, as_transition
from attnchain.testing import chains
from attnchain.testing.strategies import stochastic_matrices


def distance_to_singular(matrix, value):
    """Spectral norm of the least change that makes `value` an eigenvalue."""
    shifted = matrix - value * np.eye(len(matrix))
    return np.linalg.svd(shifted, compute_uv=False)[-1]


ROUNDED = {
    "exact": lambda m: m.double(),
    "float32": lambda m: m.float(),
    "half": lambda m: m.half(),
    "uneven": lambda m: (
        m.double() * torch.linspace(1 - 9e-6, 1 + 9e-6, len(m))[:, None]
    ),
}


@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
@pytest.mark.parametrize("rounded", ROUNDED.values(), ids=ROUNDED)
@given(matrix=stochastic_matrices(max_states=8).filter(lambda m: len(m) > 1))
def test_every_eigenvalue_is_exact_for_a_matrix_as_near_as_certified(matrix, rounded):
    matrix = rounded(matrix)
    found = leading_subspaces(DenseTransition(matrix), len(matrix) - 1)
    divided = matrix.double() / matrix.double().sum(-1, keepdim=True)
    for value, error in zip(found.eigenvalues, found.backward_error, strict=True):
        near = distance_to_singular(divided.numpy(), complex(value))
        assert near <= float(error) + 1e-15


@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-9])
def test_iterated_eigenvalues_keep_their_estimate(backend, tolerance):
    q, k = queries_and_keys(3, 200, 8)
    chain = AttentionTransition(q, k, backend=backend)
    _, twins = attention(q, k)
    found = leading_subspaces(chain, 2, tolerance=tolerance)
    assert float(found.error_estimate.max()) <= tolerance
    for i, twin in enumerate(twins):
        exact = reference.eigenvalues(twin)
        for j in range(2):
            value, told = complex(found.eigenvalues[i, j]), found.error_estimate[i, j]
            assert abs(exact - value).min() <= float(told)
            assert distance_to_singular(twin, value) <= found.backward_error[i, j]


def test_both_bases_are_invariant():
    known = chains.block_diagonal(4, 60, 0.02)
    chain = as_transition(known.matrix)
    found = leading_subspaces(chain, 3, tolerance=1e-10)
    for basis, product in ((found.right, chain.pull), (found.left, chain.push)):
        assert torch.allclose(basis.T @ basis, torch.eye(3).double(), atol=1e-10)
        image = product(basis.T.contiguous())
        image = image - image.mean(-1, keepdim=True)
        rest = image - (image @ basis) @ basis.T
        assert float(rest.norm()) < 1e-9
    assert float(found.left.sum(0).abs().max()) < 1e-12
    expected = known.eigenvalues[1:4].abs()
    assert torch.allclose(found.eigenvalues.abs(), expected, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in KNOWN if n != "one_state"])
@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
def test_known_chains(name):
    known = KNOWN[name]
    if len(known.matrix) < 2:
        pytest.skip("a single state has no other eigenvalue")
    found = leading_subspaces(as_transition(known.matrix))
    error = abs(float(found.eigenvalues[0].abs()) - float(known.eigenvalues[1].abs()))
    assert error <= float(found.error_estimate[0]) + 1e-12


def test_a_steep_drift_is_not_claimed_to_be_known():
    # Its second eigenvalue is nearly defective: 4e12 times worse than the matrix.
    known = chains.birth_death(200, 0.3, 0.2)
    with pytest.warns(NumericalWarning, match="ill-conditioned"):
        found = leading_subspaces(as_transition(known.matrix))
    error = abs(float(found.eigenvalues[0].abs()) - float(known.eigenvalues[1].abs()))
    assert error <= float(found.error_estimate[0])
    assert float(found.condition[0]) > 1e6
    assert float(found.backward_error[0]) < 1e-3


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("n", "seed", "k"),
    [(12, 23, 4), (40, 5, 2), (60, 8, 4), (120, 0, 4), (121, 0, 4), (300, 0, 4)],
)
def test_permutations_have_moduli_of_one(n, seed, k):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    moved = as_transition(torch.eye(n, dtype=torch.float64)[order])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        moduli = leading_subspaces(moved, k).eigenvalues.abs()
    torch.testing.assert_close(moduli, torch.ones(k, dtype=torch.float64))


def test_a_batch_is_solved_chain_by_chain():
    chain = AttentionTransition(*queries_and_keys(2, 3, 50, 8))
    found = leading_subspaces(chain, 2)
    assert found.eigenvalues.shape == (2, 3, 2)
    assert found.left.shape == found.right.shape == (2, 3, 50, 2)
    moduli = second_eigenvalue(chain).modulus.double()
    assert torch.allclose(found.eigenvalues[..., 0].abs(), moduli, atol=1e-4)


def test_an_eigenvalue_of_many_copies_is_given_as_often_as_asked():
    flat = torch.full((200, 200), 1 / 200, dtype=torch.float64)
    stack = DenseTransition(
        torch.stack([flat, torch.from_numpy(random_rows(200, 200))])
    )
    assert leading_subspaces(stack, 20).eigenvalues.shape == (2, 20)
    assert spectrum(stack, 21).eigenvalues.shape == (2, 21)


def test_opposite_eigenvalues_of_one_modulus_keep_their_estimate():
    # Every bounce changes sides, so eigenvalues come in pairs of opposite sign.
    matrix = torch.zeros(200, 200, dtype=torch.float64)
    matrix[:100, 100:] = torch.from_numpy(random_rows(100, 100, seed=1))
    matrix[100:, :100] = torch.from_numpy(random_rows(100, 100, seed=2))
    found = leading_subspaces(DenseTransition(matrix), 2, tolerance=1e-6)
    exact = reference.eigenvalues(matrix.numpy())
    for value, error in zip(found.eigenvalues, found.error_estimate, strict=True):
        assert abs(exact - complex(value)).min() <= float(error) <= 1e-6


def test_nearly_all_eigenvalues_of_a_chain_that_is_no_longer_small():
    chain = DenseTransition(torch.from_numpy(random_rows(520, 520)))
    found = leading_subspaces(chain, 515)
    assert found.eigenvalues.shape == (515,)
    assert float(found.backward_error.max()) < 1e-10


def test_gradients_tracked_in_the_chain_do_not_matter():
    q, k = (x.requires_grad_() for x in queries_and_keys(150, 8))
    chain = AttentionTransition(q, k)
    moduli = second_eigenvalue(chain).modulus, spectrum(chain, 2).eigenvalues[1].abs()
    expected = leading_subspaces(chain).eigenvalues[0].abs()
    for modulus in moduli:
        assert abs(float(modulus) - float(expected)) < 1e-4


@pytest.mark.parametrize("k", [0, 3, 1.5, 2.0, None, float("nan"), float("inf"), True])
@pytest.mark.parametrize("question", [leading_subspaces, spectrum])
def test_impossible_numbers_of_eigenvalues_are_refused(k, question):
    chain = DenseTransition(torch.full((2, 2), 1 / 2))
    with pytest.raises(ArgumentError, match=r"k must lie in 1\.\."):
        question(chain, k)


@pytest.mark.parametrize("wrong", [0, -1, None, "a", float("nan")])
@pytest.mark.parametrize("name", ["tolerance", "max_products"])
def test_limits_must_be_positive(name, wrong):
    with pytest.raises(ArgumentError, match=name):
        leading_subspaces(DenseTransition(torch.full((3, 3), 1 / 3)), **{name: wrong})


def test_a_single_state_and_no_chain_at_all_are_refused():
    with pytest.raises(ShapeError, match="one state"):
        leading_subspaces(DenseTransition(torch.ones(1, 1)))
    none = DenseTransition(torch.full((2, 3, 3), 1 / 3))[0:0]
    for question in (leading_subspaces, second_eigenvalue, stationary):
        with pytest.raises(ShapeError, match="no chain"):
            question(none)
