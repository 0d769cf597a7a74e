"""second_eigenvalue, spectrum, and the times derived from them."""

import math

import numpy as np
import pytest
import torch
from tests.operators.builders import attention, queries_and_keys, random_rows
from tests.testing.known import KNOWN

from attnchain import reference
from attnchain.errors import (
    ArgumentError,
    ConvergenceError,
    NumericalWarning,
    ShapeError,
)
from attnchain.markov import (
    implied_timescale,
    mixing_time,
    relaxation_time,
    second_eigenvalue,
    spectral_gap,
    spectrum,
)
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Mixture,
    as_transition,
)
from attnchain.testing import chains

LARGE = {
    "lazy_cycle": chains.lazy_cycle(150, 0.3),
    "birth_death": chains.birth_death(150, 0.25, 0.25),
    "blocks": chains.block_diagonal(5, 40, 0.01),
    "uncoupled": chains.block_diagonal(3, 50, 0.0),
    "rank_one": chains.rank_one(torch.full((130,), 1 / 130, dtype=torch.float64)),
    "causal": chains.absorbing_causal(160),
}


@pytest.mark.parametrize(
    "known",
    [*KNOWN.values(), *LARGE.values()],
    ids=[*KNOWN, *(f"{x}_large" for x in LARGE)],
)
def test_second_eigenvalues_of_known_chains(known):
    found = second_eigenvalue(as_transition(known.matrix))
    error = abs(float(found.modulus) - float(known.eigenvalues[1].abs()))
    assert error <= 1e-4
    assert float(found.eigenvalue.imag) >= 0
    assert float(found.eigenvalue.abs()) == pytest.approx(float(found.modulus))


def test_an_ill_conditioned_eigenvalue_is_told():
    # A steep drift: left and right eigenvectors live at opposite ends.
    known = chains.birth_death(200, 0.3, 0.2)
    with pytest.warns(NumericalWarning, match="ill-conditioned"):
        found = second_eigenvalue(as_transition(known.matrix))
    error = abs(float(found.modulus) - float(known.eigenvalues[1].abs()))
    assert error <= 10 * float(found.error_estimate)  # first order, not a bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_causal_attention_has_its_diagonal_as_spectrum(masked, dtype):
    q, k = queries_and_keys(2, 200, 8, dtype=dtype)
    mask = torch.linspace(-2, 2, 200, dtype=dtype) if masked else None
    transition, twin = attention(q, k, causal=True, mask=mask)
    expected = np.sort(np.diagonal(twin, axis1=1, axis2=2))[:, -2]
    found = second_eigenvalue(transition)
    np.testing.assert_allclose(found.modulus, expected, atol=1e-5)
    np.testing.assert_allclose(
        transition.diagonal(), np.diagonal(twin, axis1=1, axis2=2), atol=1e-5
    )


def test_damped_causal_attention():
    transition, twin = attention(*queries_and_keys(60, 8), causal=True)
    expected = 0.9 * np.sort(np.diagonal(twin))[-2]
    found = second_eigenvalue(Damped(transition, 0.9))
    assert float(found.modulus) == pytest.approx(expected, abs=1e-4)


def metastable_attention(n, clusters, dtype=torch.float64):
    """Attention between noisy copies of a few keys: slow modes above a bulk."""
    generator = torch.Generator().manual_seed(n)
    centres = torch.randn(clusters, 16, generator=generator, dtype=torch.float64)
    tokens = centres.repeat(-(-n // clusters), 1)[:n]
    q, k = (
        1.6 * tokens
        + 0.5 * torch.randn(n, 16, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    return attention(q.to(dtype), k.to(dtype), backend="tiled")


@pytest.mark.parametrize("n", [2, 3, 119, 121, 122, 125, 129, 200, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_attention_of_every_size(n, dtype):
    transition, twin = metastable_attention(n, 5, dtype)
    found = second_eigenvalue(transition)
    expected = abs(reference.second_eigenvalue(twin))
    assert abs(float(found.modulus) - expected) <= 1e-4


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_attention_without_structure_at_any_sharpness(size):
    transition, twin = attention(*queries_and_keys(250, 16, size=size))
    found = second_eigenvalue(transition)
    error = abs(float(found.modulus) - abs(reference.second_eigenvalue(twin)))
    assert error <= max(1e-4, 2 * float(found.error_estimate))


def test_eight_leading_eigenvalues_and_their_subspace():
    transition, twin = metastable_attention(300, 6)
    found = spectrum(transition, 6, tolerance=1e-9)
    expected = reference.eigenvalues(twin)[:6]
    np.testing.assert_allclose(np.abs(found.eigenvalues), np.abs(expected), atol=1e-7)
    basis = found.basis.numpy()
    assert basis.shape == (300, 6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(basis[:, 0], basis[0, 0], atol=1e-12)
    image = twin @ basis
    np.testing.assert_allclose(image, basis @ (basis.T @ image), atol=1e-8)
    assert found.residuals.max() <= 1e-9


def test_leading_columns_span_leading_subspaces():
    transition, twin = metastable_attention(150, 4)
    moduli = np.abs(reference.eigenvalues(twin)[:5])
    basis = spectrum(transition, 4, tolerance=1e-9).basis.numpy()
    for m in range(1, 5):
        if moduli[m - 1] - moduli[m] < 1e-6:
            continue
        image = twin @ basis[:, :m]
        inside = basis[:, :m] @ (basis[:, :m].T @ image)
        np.testing.assert_allclose(image, inside, atol=1e-8)


def test_a_slow_mode_is_resolved_from_the_one():
    known = chains.block_diagonal(2, 100, 1e-6)
    found = second_eigenvalue(as_transition(known.matrix), tolerance=1e-10)
    gap = 1 - float(found.modulus)
    assert gap == pytest.approx(2e-6, rel=1e-3)


def test_one_of_many_equal_moduli_is_found():
    found = spectrum(as_transition(chains.cycle(12).matrix), 12)
    np.testing.assert_allclose(found.eigenvalues.abs(), 1, atol=1e-10)
    turned = np.sort_complex((found.eigenvalues.numpy() ** 12).round(6))
    np.testing.assert_allclose(turned, 1, atol=1e-6)


def test_a_batch_is_solved_chain_by_chain():
    q, k = queries_and_keys(2, 3, 150, 8, size=2.0)
    heads = AttentionTransition(q, k)
    found = second_eigenvalue(heads, tolerance=1e-8)
    assert found.modulus.shape == found.products.shape == (2, 3)
    alone = second_eigenvalue(heads[1, 2], tolerance=1e-8)
    torch.testing.assert_close(found.modulus[1, 2], alone.modulus, atol=1e-7, rtol=0)
    assert spectrum(heads, 3).basis.shape == (2, 3, 150, 3)


@pytest.mark.parametrize("damping", [0.5, 0.99])
def test_damping_scales_all_but_the_one(damping):
    transition, _ = metastable_attention(130, 4)
    v = torch.from_numpy(random_rows(130))
    plain = spectrum(transition, 4, tolerance=1e-9).eigenvalues
    damped = spectrum(Damped(transition, damping, v), 4, tolerance=1e-9).eigenvalues
    expected = torch.cat([plain[:1], damping * plain[1:]])
    torch.testing.assert_close(damped.abs(), expected.abs(), atol=1e-9, rtol=0)


def test_combinators_have_spectra_too():
    transition, twin = attention(*queries_and_keys(3, 130, 8, size=2.0))
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    chain = ColumnNormalized(Damped(Mixture([transition], [weights]), 0.99))
    mixed = reference.damped(reference.mixture(twin, weights.numpy()), 0.99)
    expected = reference.second_eigenvalue(reference.column_normalized(mixed))
    assert float(second_eigenvalue(chain).modulus) == pytest.approx(
        abs(expected), abs=1e-4
    )


def test_one_state_has_nothing_to_forget():
    chain = as_transition(torch.ones(2, 1, 1))
    found = second_eigenvalue(chain)
    torch.testing.assert_close(found.modulus, torch.zeros(2))
    torch.testing.assert_close(spectral_gap(chain), torch.ones(2))
    torch.testing.assert_close(
        spectrum(chain, 1).eigenvalues.abs().float(), torch.ones(2, 1)
    )


def test_times_follow_from_the_second_eigenvalue():
    known = chains.two_state(0.1, 0.3)
    chain = as_transition(known.matrix)
    assert float(spectral_gap(chain)) == pytest.approx(0.4)
    assert float(relaxation_time(chain)) == pytest.approx(2.5)
    assert float(implied_timescale(chain)) == pytest.approx(-1 / math.log(0.6))


def test_times_of_a_chain_that_never_mixes_are_infinite():
    for known in (chains.two_state(0, 0), chains.two_state(1, 1)):
        chain = as_transition(known.matrix)
        assert float(relaxation_time(chain)) == math.inf
        assert float(implied_timescale(chain)) == math.inf


def test_a_chain_that_mixes_at_once():
    chain = as_transition(torch.full((2, 2), 0.5, dtype=torch.float64))
    assert float(relaxation_time(chain)) == pytest.approx(1)
    assert float(implied_timescale(chain)) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("epsilon", [0.3, 0.25, 0.1, 0.01, 1e-4])
@pytest.mark.parametrize(
    "known",
    [
        chains.two_state(0.1, 0.3),
        chains.birth_death(7),
        chains.lazy_cycle(9, 0.2),
        chains.block_diagonal(2, 4, 0.03),
    ],
    ids=["two_state", "birth_death", "lazy_cycle", "blocks"],
)
def test_mixing_time_is_that_of_the_reference(known, epsilon):
    found = mixing_time(as_transition(known.matrix), known.stationary, epsilon=epsilon)
    assert float(found) == reference.mixing_time(known.matrix.numpy(), epsilon)


def test_mixing_time_of_a_start_that_is_near_enough():
    # From either state the distance to (1/2, 1/2) is 1/2 before the first bounce.
    known = chains.two_state(0.1, 0.1)
    assert (
        float(mixing_time(as_transition(known.matrix), known.stationary, epsilon=0.6))
        == 0
    )


def test_mixing_times_of_a_batch_and_of_a_periodic_chain():
    slow, never = chains.lazy_cycle(4, 0.9), chains.cycle(4)
    chain = DenseTransition(torch.stack([slow.matrix, never.matrix]))
    found = mixing_time(chain, slow.stationary)
    assert float(found[0]) == reference.mixing_time(slow.matrix.numpy())
    assert float(found[1]) == math.inf


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1, float("nan")])
def test_distances_lie_between_zero_and_one(epsilon):
    known = chains.two_state(0.1, 0.3)
    with pytest.raises(ArgumentError, match="epsilon"):
        mixing_time(as_transition(known.matrix), known.stationary, epsilon=epsilon)


def test_mixing_time_stores_powers_and_says_so(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
    known = chains.cycle(20)
    with pytest.raises(ShapeError, match="relaxation_time"):
        mixing_time(as_transition(known.matrix), known.stationary)


@pytest.mark.parametrize("k", [0, 6, -1, 1.5])
def test_the_number_of_eigenvalues_is_checked(k):
    with pytest.raises(ArgumentError, match="k must lie"):
        spectrum(as_transition(random_rows(5, 5)), k)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
def test_tolerances_are_positive(tolerance):
    with pytest.raises(ArgumentError, match="tolerance"):
        second_eigenvalue(as_transition(random_rows(5, 5)), tolerance=tolerance)


def test_spent_products_raise_with_what_was_reached():
    transition, _ = attention(*queries_and_keys(300, 16, size=3.0))
    with pytest.raises(ConvergenceError, match="max_products") as caught:
        spectrum(transition, 8, tolerance=1e-12, max_products=8)
    assert caught.value.result.eigenvalues.shape == (8,)
