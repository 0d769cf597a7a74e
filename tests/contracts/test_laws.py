"""The laws every transition obeys, on every case."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators import to_scipy
from attnchain.testing import assert_adjoint, assert_stochastic

ALLOWED = {torch.float64: 1e-11, torch.float32: 5e-6}
"""Largest error of an entry; the twin is computed from the same given numbers."""


def vectors_for(transition, *shape):
    generator = torch.Generator().manual_seed(1)
    numbers = torch.rand(*shape, transition.n_states, generator=generator)
    return (numbers / numbers.sum(-1, keepdim=True)).to(transition.dtype)


def assert_equals(found, expected, transition):
    assert found.dtype == transition.dtype
    np.testing.assert_allclose(
        found.detach().numpy(), expected, rtol=0, atol=ALLOWED[transition.dtype]
    )


def test_shape_is_that_of_the_twin(pair):
    transition, twin = pair
    assert transition.shape == twin.shape
    assert transition.batch_shape == twin.shape[:-2]
    assert transition.n_states == twin.shape[-1]
    assert transition.dtype in ALLOWED
    assert transition.device == torch.device("cpu")


def test_dense_form_is_the_twin(pair):
    transition, twin = pair
    assert_equals(transition.to_dense(), twin, transition)


def test_row_error_is_a_bound(pair):
    transition, twin = pair
    error = np.abs(transition.to_dense().double().numpy() - twin).sum(-1)
    of_the_twin = twin.shape[-1] * np.finfo(np.float64).eps
    assert error.max() <= transition.row_error + of_the_twin


def test_rows_are_distributions(pair):
    transition, twin = pair
    as_given = np.abs(twin.sum(-1) - 1).max()
    assert_stochastic(transition, atol=as_given + 8 * ALLOWED[transition.dtype])


def test_push_and_pull_are_adjoint(pair):
    transition, _ = pair
    assert_adjoint(transition)


def test_push_keeps_mass_and_sign(pair):
    transition, twin = pair
    v = vectors_for(transition)
    pushed = transition.push(v)
    assert pushed.min() >= 0
    mass = (v.double().numpy() @ twin).sum(-1)
    np.testing.assert_allclose(
        pushed.sum(-1), mass, rtol=0, atol=8 * ALLOWED[transition.dtype]
    )


def test_push_of_a_shared_vector(pair):
    transition, twin = pair
    v = vectors_for(transition)
    assert_equals(transition.push(v), v.double().numpy() @ twin, transition)


def test_pull_of_a_shared_observable(pair):
    transition, twin = pair
    f = vectors_for(transition)
    assert_equals(transition.pull(f), twin @ f.double().numpy(), transition)


def test_push_of_one_vector_for_each_chain(pair):
    transition, twin = pair
    v = vectors_for(transition, *transition.batch_shape)
    expected = np.einsum("...i,...ij->...j", v.double().numpy(), twin)
    assert_equals(transition.push(v), expected, transition)


def test_pull_of_one_observable_for_each_chain(pair):
    transition, twin = pair
    f = vectors_for(transition, *transition.batch_shape)
    expected = np.einsum("...ij,...j->...i", twin, f.double().numpy())
    assert_equals(transition.pull(f), expected, transition)


@pytest.mark.parametrize("several", [1, 3])
def test_several_vectors_for_each_chain(pair, several):
    transition, twin = pair
    v = vectors_for(transition, *transition.batch_shape, several)
    wide = v.double().numpy()
    assert_equals(transition.push(v), wide @ twin, transition)
    pulled = wide @ np.swapaxes(twin, -1, -2)
    assert_equals(transition.pull(v), pulled, transition)


def test_vectors_of_another_precision_are_taken(pair):
    transition, twin = pair
    v = vectors_for(transition).double()
    assert_equals(transition.push(v), v.numpy() @ twin, transition)
    half = transition.pull(v.half())
    assert half.dtype == transition.dtype


@pytest.mark.parametrize("side", ["push", "pull"])
def test_vectors_that_do_not_fit_are_refused(pair, side):
    transition, _ = pair
    n, batch = transition.n_states, transition.batch_shape
    product = getattr(transition, side)
    for shape in [(n + 1,), (*batch, n + 1), (7, *batch, 2, n), ()]:
        with pytest.raises(ShapeError, match="does not fit"):
            product(torch.zeros(shape))
    with pytest.raises(ShapeError, match="floating"):
        product(torch.zeros(n, dtype=torch.long))
    with pytest.raises(ArgumentError, match="tensor"):
        product([0.0] * n)


def test_indexing_picks_chains_of_the_batch(pair):
    transition, twin = pair
    if not transition.batch_shape:
        return
    assert len(transition) == len(twin)
    indices = [0, -1, slice(1), slice(None, None, 2), torch.tensor([1, 0])]
    if len(transition.batch_shape) == 2:
        indices += [(0, 1), (slice(None), 0), (1, slice(0, 1)), (slice(None), 0)]
    v = vectors_for(transition)
    for index in indices:
        part = transition[index]
        expected = twin[index.numpy() if isinstance(index, torch.Tensor) else index]
        assert part.shape == expected.shape
        assert_equals(part.to_dense(), expected, transition)
        assert_equals(part.push(v), v.double().numpy() @ expected, transition)


def test_the_state_axes_cannot_be_indexed(pair):
    transition, _ = pair
    b = len(transition.batch_shape)
    with pytest.raises(ShapeError):
        transition[(0,) * (b + 1)]
    if b:
        with pytest.raises(ShapeError, match="does not fit"):
            transition[99]
    else:
        with pytest.raises(ShapeError, match="no length"):
            len(transition)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conversion_changes_the_precision_only(pair, dtype):
    transition, twin = pair
    converted = transition.to(dtype)
    assert type(converted) is type(transition)
    assert converted.dtype == dtype
    worst = max(ALLOWED[dtype], ALLOWED[transition.dtype])
    if dtype == torch.float32:
        worst *= 1 + 2 * _largest_score(transition)
    np.testing.assert_allclose(converted.to_dense().numpy(), twin, rtol=0, atol=worst)
    assert_equals(transition.to("cpu").to_dense(), twin, transition)


def test_transitions_are_frozen(pair):
    transition, _ = pair
    field = dataclasses.fields(transition)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(transition, field, None)


def test_the_printed_form_names_class_and_shape(pair):
    transition, twin = pair
    assert type(transition).__name__ in repr(transition)
    assert str(tuple(twin.shape)) in repr(transition)


def test_scipy_sees_the_same_matrix(pair):
    transition, twin = pair
    if transition.batch_shape:
        with pytest.raises(ShapeError, match="one chain"):
            to_scipy(transition)
        return
    operator = to_scipy(transition)
    allowed = ALLOWED[transition.dtype]
    v = vectors_for(transition).double().numpy()
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator.matvec(v), twin @ v, atol=allowed)
    np.testing.assert_allclose(operator.rmatvec(v), v @ twin, atol=allowed)
    columns = np.stack([v, v[::-1]], axis=1)
    np.testing.assert_allclose(operator.matmat(columns), twin @ columns, atol=allowed)


def _largest_score(transition):
    """Rounding of scores is relative to their size; zero where there are none."""
    q, k = getattr(transition, "q", None), getattr(transition, "k", None)
    if q is None or k is None:
        return 0.0
    scale = q.shape[-1] ** -0.5 if transition.scale is None else transition.scale
    return float((q @ k.mT).abs().max()) * scale / math.log(2)
