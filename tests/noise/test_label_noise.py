"""The transition of label noise, its volume and the loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.noise import (
    NoiseTransition,
    log_volume,
    noisy_label_loss,
    transition_error,
)


@given(st.integers(2, 8), st.integers(0, 2**31))
def test_rows_are_distributions_with_the_largest_entry_on_the_diagonal(n, seed):
    module = NoiseTransition(n)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module.weight.copy_(3 * torch.randn(n, n, generator=generator))
    matrix = module().detach()
    assert torch.allclose(matrix.sum(-1), torch.ones(n))
    assert bool((matrix > 0).all())
    assert bool((matrix.diagonal() == matrix.amax(-1)).all())


def test_the_start_is_the_one_told():
    share = 1 / (1 + math.exp(2))
    diagonal = NoiseTransition(5)().diagonal()
    assert torch.allclose(diagonal, torch.full((5,), 1 / (1 + 4 * share)))


@pytest.mark.parametrize("wrong", [1, 0, 2.0, None, True])
def test_numbers_of_classes_are_checked(wrong):
    with pytest.raises(ArgumentError, match="n_classes"):
        NoiseTransition(wrong)


def test_the_volume_is_numpys_determinant():
    matrix = torch.rand(6, 6, dtype=torch.float64) + 6 * torch.eye(6)
    matrix = matrix / matrix.sum(-1, keepdim=True)
    expected = np.log(np.linalg.det(matrix.numpy()))
    assert float(log_volume(matrix)) == pytest.approx(expected, rel=1e-12)


def test_a_volume_too_small_for_a_float_has_a_logarithm():
    assert float(log_volume(0.01 * torch.eye(300))) == pytest.approx(
        300 * math.log(0.01)
    )


def test_classes_that_changed_places_or_merged_have_no_volume():
    with pytest.raises(NotStochasticError, match="changed places"):
        log_volume(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(NotStochasticError, match="merged"):
        log_volume(torch.full((2, 2), 0.5))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2, 2)])
def test_the_volume_is_that_of_one_square_matrix(shape):
    with pytest.raises(ShapeError, match="transition"):
        log_volume(torch.zeros(shape))


def test_the_loss_is_that_of_the_formula():
    logits = torch.randn(7, 3, dtype=torch.float64)
    matrix = torch.tensor(
        [[0.8, 0.1, 0.1], [0.0, 0.9, 0.1], [0.3, 0.0, 0.7]], dtype=torch.float64
    )
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    clean = np.exp(logits.numpy())
    clean /= clean.sum(1, keepdims=True)
    noisy = clean @ matrix.numpy()
    expected = -np.log(noisy[np.arange(7), labels.numpy()]).mean()
    assert float(noisy_label_loss(logits, matrix, labels)) == pytest.approx(expected)
    volume = 0.25 * np.log(np.linalg.det(matrix.numpy()))
    found = noisy_label_loss(logits, matrix, labels, volume_weight=0.25)
    assert float(found) == pytest.approx(expected + volume)


def test_an_identity_transition_gives_cross_entropy():
    logits, labels = torch.randn(9, 4), torch.arange(9) % 4
    expected = torch.nn.functional.cross_entropy(logits, labels)
    found = noisy_label_loss(logits, torch.eye(4), labels)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_error_is_a_share_of_the_true_entries():
    true = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert transition_error(true, true) == 0
    assert transition_error(torch.eye(2), true) == pytest.approx(0.5)
    with pytest.raises(ShapeError, match="one shape"):
        transition_error(torch.eye(3), true)
