"""Properties that hold for every chain hypothesis can think of."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings

from attnchain import reference
from attnchain.errors import ReducibleChainError, ToleranceError
from attnchain.markov import (
    is_irreducible,
    propagate,
    second_eigenvalue,
    spectrum,
    stationary,
)
from attnchain.operators import (
    ColumnNormalized,
    Damped,
    Lazy,
    Mixture,
    Permuted,
    Power,
    Product,
    Restricted,
    Reversed,
    as_transition,
)
from attnchain.testing import (
    assert_adjoint,
    assert_distribution,
    assert_stochastic,
    chains,
    strategies,
)

matrices = strategies.stochastic_matrices()
dampings = st.sampled_from([0.01, 0.5, 0.85, 0.99, 0.999])
fractions = st.floats(0.0, 1.0)


@given(matrices, dampings, fractions, st.integers(1, 4), st.data())
def test_combinators_give_stochastic_adjoint_chains(
    matrix, damping, holding, exponent, data
):
    chain, n = as_transition(matrix), len(matrix)
    v = data.draw(strategies.distributions(n))
    order = torch.tensor(data.draw(st.permutations(range(n))))
    weights = data.draw(strategies.distributions(2))
    moved = Permuted(chain, order)
    made = [
        Damped(chain, damping, v),
        Lazy(chain, holding),
        Power(chain, exponent),
        moved,
        Product([chain, moved]),
        Mixture([chain, moved], list(weights)),
        ColumnNormalized(Damped(chain, damping)),
        Restricted(Damped(chain, damping), order[: 1 + n // 2]),
    ]
    for transition in made:
        assert_stochastic(transition, atol=1e-10)
        assert_adjoint(transition, rtol=1e-12)


@given(strategies.positive_matrices())
def test_time_reversal_is_stochastic_with_the_same_stationary_distribution(matrix):
    pi = torch.from_numpy(reference.stationary(matrix.numpy()))
    backwards = Reversed(as_transition(matrix), pi)
    assert_stochastic(backwards, atol=1e-10)
    assert_adjoint(backwards, rtol=1e-10)
    torch.testing.assert_close(backwards.push(pi), pi)


@given(matrices)
def test_irreducibility_is_that_of_the_reference(matrix):
    assert is_irreducible(as_transition(matrix)) == reference.is_irreducible(
        matrix.numpy()
    )


@given(matrices)
def test_undamped_chains_are_solved_or_refused(matrix):
    chain = as_transition(matrix)
    if reference.is_irreducible(matrix.numpy()):
        found = stationary(chain)
        assert_distribution(found.distribution, atol=1e-12)
        expected = reference.stationary(matrix.numpy())
        error = np.abs(found.distribution.numpy() - expected).sum()
        assert error <= float(found.error_bound) <= 1e-6
    else:
        with pytest.raises(ReducibleChainError):
            stationary(chain)


@given(matrices, dampings)
def test_the_stationary_distribution_is_fixed_by_push(matrix, damping):
    chain = Damped(as_transition(matrix), damping)
    found = stationary(chain, tolerance=1e-9)
    assert_distribution(found.distribution, atol=1e-12)
    after = chain.push(found.distribution)
    torch.testing.assert_close(after, found.distribution, atol=1e-9, rtol=0)


@settings(max_examples=60)
@given(
    matrices,
    st.sampled_from([0.01, 0.5, 0.85, 0.99]),
    st.sampled_from(["auto", "power", "anderson", "direct"]),
    st.booleans(),
    st.sampled_from([1e-2, 1e-4, 1e-7]),
)
@example(chains.cycle(6).matrix, 0.99, "power", False, 1e-2)
@example(chains.block_diagonal(2, 3, 1e-9).matrix, 0.999, "anderson", False, 1e-2)
@example(chains.absorbing_causal(8).matrix, 0.99, "power", True, 1e-2)
@example(chains.two_state(0.1, 0.2).matrix, 0.999, "power", False, 1e-2)
def test_the_error_bound_is_a_bound(matrix, damping, solver, outgoing, tolerance):
    chain = Damped(as_transition(matrix), damping)
    direction = "outgoing" if outgoing else "incoming"
    found = stationary(
        ColumnNormalized(chain) if outgoing else chain,
        solver=solver,
        tolerance=tolerance,
        max_iterations=100_000,
    )
    expected = reference.token_rank(matrix.numpy(), damping, direction=direction)
    error = np.abs(found.distribution.numpy() - expected).sum()
    assert error <= float(found.error_bound) <= tolerance


@given(matrices, st.integers(1, 12), st.booleans(), st.data())
def test_the_bound_of_an_unfinished_result_is_a_bound(
    matrix, iterations, outgoing, data
):
    v = data.draw(strategies.distributions(len(matrix), positive=True))
    chain = Damped(as_transition(matrix), 0.99, v)
    found = stationary(
        ColumnNormalized(chain) if outgoing else chain,
        solver=data.draw(st.sampled_from(["power", "anderson"])),
        max_iterations=iterations,
        on_failure="return",
    )
    direction = "outgoing" if outgoing else "incoming"
    expected = reference.token_rank(
        matrix.numpy(), 0.99, direction=direction, personalization=v.numpy()
    )
    error = np.abs(found.distribution.numpy() - expected).sum()
    assert error <= float(found.error_bound)


@given(matrices, dampings, st.booleans(), st.data())
def test_renaming_the_states_renames_the_answer(matrix, damping, outgoing, data):
    order = torch.tensor(data.draw(st.permutations(range(len(matrix)))))
    chain = Damped(as_transition(matrix), damping)
    moved = Damped(Permuted(as_transition(matrix), order), damping)
    if outgoing:
        chain, moved = ColumnNormalized(chain), ColumnNormalized(moved)
    found = stationary(moved, tolerance=1e-8).distribution
    expected = stationary(chain, tolerance=1e-8).distribution[order]
    torch.testing.assert_close(found, expected, atol=2e-8, rtol=0)


@given(matrices, dampings)
def test_damping_scales_every_eigenvalue_but_the_first(matrix, damping):
    assume(len(matrix) > 1)
    # A defective eigenvalue moves by the square root of a perturbation and more.
    allowed = 10 * (1e-15) ** (1 / len(matrix))
    plain = reference.eigenvalues(matrix.numpy())[1:]
    found = spectrum(Damped(as_transition(matrix), damping), len(matrix)).eigenvalues
    np.testing.assert_allclose(
        np.sort(np.abs(found.numpy()))[:-1],
        np.sort(damping * np.abs(plain)),
        atol=allowed,
    )


@pytest.mark.filterwarnings("ignore:lambda_2 is ill-conditioned")  # defective ones
@given(matrices)
@example(torch.tensor([[3, 6, 6], [3, 7, 5], [3, 7, 5]]).double() / 15)
def test_the_second_eigenvalue_is_that_of_the_reference(matrix):
    expected = abs(reference.second_eigenvalue(matrix.numpy()))
    found = float(second_eigenvalue(as_transition(matrix)).modulus)
    assert abs(found - expected) <= 10 * (1e-15) ** (1 / len(matrix))
    assert 0 <= found <= 1 + 1e-12


@given(matrices, st.integers(0, 6), st.data())
def test_bounces_stay_distributions_and_compose(matrix, bounces, data):
    chain = as_transition(matrix)
    start = data.draw(strategies.distributions(len(matrix)))
    every = propagate(chain, start, bounces, all_bounces=True)
    assert_distribution(every, atol=1e-12)
    more = propagate(chain, every[-1], 2)
    torch.testing.assert_close(more, propagate(chain, start, bounces + 2))


@given(matrices)
def test_a_tolerance_is_met_or_refused(matrix):
    chain = Damped(as_transition(matrix), 0.999)
    try:
        found = stationary(chain, tolerance=1e-13)
    except ToleranceError:
        return
    assert float(found.error_bound) <= 1e-13
