"""Every solver against a dense solve; certificates; restarts; hard chains."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows

from attnchain.errors import ConvergenceError, ToleranceError
from attnchain.markov import Outcome, second_eigenvalue, spectrum, stationary
from attnchain.markov.certificates import HittingTimes, incoming, outgoing, undamped
from attnchain.markov.solvers import gmres
from attnchain.markov.solvers.linear import Correction
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    as_transition,
)
from attnchain.testing import assert_distribution

SOLVERS = ("auto", "gmres", "anderson", "power", "direct")


def sticky(n=300, *, dtype=torch.float32):
    """A head with four metastable sets."""
    generator = torch.Generator().manual_seed(0)
    centres = 2.0 * torch.randn(4, 8, generator=generator, dtype=dtype)
    groups = torch.arange(n) % 4
    q = centres[groups] + torch.randn(n, 8, generator=generator, dtype=dtype)
    k = centres[groups] + torch.randn(n, 8, generator=generator, dtype=dtype)
    return AttentionTransition(q, k)


def exact(chain):
    """Stationary distribution of a damped or column-normalised chain, dense."""
    matrix = chain.to(torch.float64).to_dense()
    n = len(matrix)
    system = torch.eye(n, dtype=torch.float64) - matrix + 1 / n
    uniform = torch.full((n,), 1 / n, dtype=torch.float64)
    return torch.linalg.solve(system.T, uniform)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("limit", [0, 10_000], ids=["single", "double"])
@pytest.mark.parametrize("turned", [False, True], ids=["incoming", "outgoing"])
def test_every_solver_meets_its_certificate(solver, limit, turned, monkeypatch):
    monkeypatch.setattr("attnchain.markov.solvers.linear.CACHED_LIMIT", limit)
    chain = Damped(sticky(), 0.95)
    chain = ColumnNormalized(chain) if turned else chain
    found = stationary(chain, solver=solver)
    error = float((found.distribution - exact(chain)).abs().sum())
    assert error <= float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("turned", [False, True], ids=["incoming", "outgoing"])
@pytest.mark.parametrize("limit", [0, 256], ids=["iterated", "factorised"])
def test_undamped_chains_too_large_to_eliminate(solver, turned, limit, monkeypatch):
    monkeypatch.setattr("attnchain.markov.stationarity.INVERSE_LIMIT", 100)
    monkeypatch.setattr("attnchain.markov.solvers.linear.DIRECT_LIMIT", limit)
    chain = AttentionTransition(*queries_and_keys(200, 8))
    chain = ColumnNormalized(chain) if turned else chain
    found = stationary(chain, solver=solver, tolerance=1e-9)
    error = float((found.distribution - exact(chain)).abs().sum())
    assert error <= float(found.error_bound) + 1e-13
    assert float(found.error_bound) <= 1e-9
    assert found.outcome is Outcome.CONVERGED


def test_no_seed_leads_to_a_result_that_is_no_distribution(monkeypatch):
    monkeypatch.setattr("attnchain.markov.stationarity.INVERSE_LIMIT", 100)
    for seed in range(20):
        chain = AttentionTransition(*queries_and_keys(200, 8, size=1.0, seed=seed))
        found = stationary(chain, tolerance=1e-9)
        assert_distribution(found.distribution, atol=1e-12)
        assert float((found.distribution - exact(chain)).abs().sum()) < 1e-9


WRONG = {
    "not a number": lambda x: x * math.nan,
    "infinite": lambda x: x + math.inf,
    "all negative": lambda x: x * 0 - 1e9,
    "of the other sign": lambda x: -x,
    "nothing": lambda x: 0 * x,
}


@pytest.mark.parametrize("damping", [0.95, 1.0])
@pytest.mark.parametrize("turned", [False, True], ids=["incoming", "outgoing"])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("solver", ["gmres", "anderson"])
def test_wrong_corrections_never_converge(damping, turned, wrong, solver, monkeypatch):
    solve = Correction.solve

    def spoilt(self, *arguments):
        step, taken, correction = solve(self, *arguments)
        return WRONG[wrong](step), taken, correction

    chain = Damped(sticky(60), damping)
    chain = ColumnNormalized(chain) if turned else chain
    expected = exact(chain)
    monkeypatch.setattr(Correction, "solve", spoilt)
    monkeypatch.setattr("attnchain.markov.stationarity.INVERSE_LIMIT", 0)
    options = {"solver": solver, "tolerance": 1e-3, "on_failure": "return"}
    try:
        found = stationary(chain, **options)
    except ToleranceError:
        return
    assert_distribution(found.distribution, atol=1e-12)
    assert found.outcome is not Outcome.CONVERGED
    error = float((found.distribution - expected).abs().sum())
    assert error <= float(found.error_bound)


def two_blocks(size, first, second):
    """Blocks of uneven states left with two probabilities, and their masses."""
    inside = torch.from_numpy(random_rows(2, size, size))
    across = torch.from_numpy(random_rows(2, size, size, seed=1))
    rows = [
        torch.cat([(1 - first) * inside[0], first * across[0]], 1),
        torch.cat([second * across[1], (1 - second) * inside[1]], 1),
    ]
    return torch.cat(rows), second / (first + second)


COUPLINGS = [10.0**-k for k in range(3, 16)]


@pytest.mark.parametrize("limit", [0, 1_500], ids=["iterated", "eliminated"])
@pytest.mark.parametrize("coupling", COUPLINGS, ids="{:.0e}".format)
def test_blocks_that_are_hardly_ever_left(coupling, limit, monkeypatch):
    monkeypatch.setattr("attnchain.markov.stationarity.INVERSE_LIMIT", limit)
    matrix, mass = two_blocks(30, coupling, coupling / 10)
    found = stationary(as_transition(matrix))
    assert abs(float(found.distribution[:30].sum()) - mass) <= float(found.error_bound)
    assert float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("solver", ["gmres", "anderson", "power"])
@pytest.mark.parametrize("coupling", COUPLINGS[::2], ids="{:.0e}".format)
def test_named_solvers_say_what_they_do_not_reach(coupling, solver):
    matrix, mass = two_blocks(30, coupling, coupling / 10)
    found = stationary(as_transition(matrix), solver=solver, on_failure="return")
    error = 2 * abs(float(found.distribution[:30].sum()) - mass)
    assert error <= float(found.error_bound) + 1e-13
    certified = float(found.error_bound) <= 1e-6
    assert certified == (found.outcome is Outcome.CONVERGED)


@pytest.mark.parametrize("coupling", COUPLINGS, ids="{:.0e}".format)
def test_a_small_chain_beyond_the_budget_is_right_or_refused(coupling, monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "1000")
    matrix, mass = two_blocks(30, coupling, coupling / 10)
    zero = torch.zeros(60, 1, dtype=torch.float64)
    chain = AttentionTransition(zero, zero, mask=matrix.log(), backend="tiled")
    found = stationary(chain, on_failure="return")
    error = 2 * abs(float(found.distribution[:30].sum()) - mass)
    assert error <= float(found.error_bound)
    assert_distribution(found.distribution, atol=1e-12)
    certified = float(found.error_bound) <= 1e-6
    assert certified or coupling < 1e-7
    if not certified:
        with pytest.raises(ConvergenceError, match="bound"):
            stationary(chain)


def test_two_large_blocks_keep_their_masses():
    matrix, mass = two_blocks(800, 1e-7, 1e-8)
    found = stationary(as_transition(matrix))
    assert abs(float(found.distribution[:800].sum()) - mass) <= 1e-6
    assert float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("turned", [False, True], ids=["incoming", "outgoing"])
@pytest.mark.parametrize("jump", [1e-6, 1e-9, 1e-13])
def test_damping_next_to_one(turned, jump):
    matrix, _ = two_blocks(30, 1e-9, 1e-10)
    chain = Damped(as_transition(matrix), 1 - jump)
    chain = ColumnNormalized(chain) if turned else chain
    found = stationary(chain)
    assert float(found.error_bound) <= 1e-6
    weights = [Fraction(float(x)) for x in found.distribution]
    dense = chain.to_dense().tolist()
    flow = sum(
        weights[i] * Fraction(dense[i][j]) for i in range(30) for j in range(30, 60)
    )
    back = sum(
        weights[i] * Fraction(dense[i][j]) for i in range(30, 60) for j in range(30)
    )
    assert float(flow / back) == pytest.approx(1, rel=1e-9)


def test_hitting_times_are_bounded_from_above_and_not_by_much():
    chain = sticky(40, dtype=torch.float64)
    equations = undamped(chain)
    start = torch.full((40,), 1 / 40, dtype=torch.float64)
    times = HittingTimes.prepare(equations, start, chain.row_error).times
    last = int(times.argmin())
    left = torch.arange(40) != last
    inside = chain.to_dense()[left][:, left]
    one = torch.ones(39, dtype=torch.float64)
    expected = torch.linalg.solve(torch.eye(39, dtype=torch.float64) - inside, one)
    assert float(times[last]) == 0
    assert bool((times[left] >= expected).all())
    assert bool((times[left] <= 1.1 * expected).all())


def test_acceleration_saves_most_products():
    chain = Damped(sticky())
    products = {s: int(stationary(chain, solver=s).products) for s in SOLVERS}
    assert 10 * products["gmres"] < products["power"]
    assert 10 * products["anderson"] < products["power"]


def test_a_restart_loses_no_accuracy(monkeypatch):
    monkeypatch.setattr(gmres, "RESTART", 5)
    chain = Damped(sticky(), 0.95)
    found = stationary(chain, solver="gmres")
    error = float((found.distribution - exact(chain)).abs().sum())
    assert error <= float(found.error_bound) <= 1e-6


def test_iterations_are_bounded():
    found = stationary(
        Damped(sticky()), solver="gmres", max_iterations=3, on_failure="return"
    )
    assert int(found.iterations) == 3
    error = float((found.distribution - exact(Damped(sticky()))).abs().sum())
    assert error <= float(found.error_bound)


def test_heads_stop_by_themselves():
    easy = AttentionTransition(*queries_and_keys(300, 8, size=0.3)).to(torch.float32)
    hard = sticky()
    both = AttentionTransition(
        torch.stack([easy.q, hard.q]), torch.stack([easy.k, hard.k])
    )
    iterations = stationary(Damped(both)).iterations
    assert int(iterations[0]) < int(iterations[1])


def test_the_outgoing_factor_is_a_bound_on_the_inverse():
    chain = Damped(sticky(40), 0.9)
    equations, certificate = outgoing(chain)
    inverse = torch.linalg.inv(equations.matrix())
    norm = (equations.diagonal[:, None] * inverse).abs().sum(0).max()
    assert float(norm) <= certificate.factor <= 1.1 * float(norm)


@pytest.mark.parametrize("size", [0.3, 1.5, 3.0])
def test_second_eigenvalues_of_stored_and_streamed_chains(size):
    q, k = queries_and_keys(200, 8, size=size)
    values = torch.linalg.eigvals((q @ k.T * 8**-0.5).softmax(-1))
    second = float(values.abs().sort(descending=True).values[1])
    for backend in ("dense", "tiled"):
        chain = AttentionTransition(q, k, backend=backend)
        found = second_eigenvalue(chain)
        assert abs(float(found.modulus) - second) <= 1e-4
    stored = DenseTransition.trusted(chain.to_dense())
    assert int(second_eigenvalue(stored).products) < int(spectrum(stored, 3).products)


def test_a_cycle_defeats_krylov_methods_and_is_solved_densely():
    n = 150
    cycle = DenseTransition(torch.eye(n, dtype=torch.float64).roll(1, 1))
    assert abs(float(second_eigenvalue(cycle).modulus) - 1) < 1e-9


@pytest.mark.parametrize("turned", [False, True], ids=["incoming", "outgoing"])
def test_a_recycled_subspace_solves_another_right_side_in_fewer_products(turned):
    damped = Damped(sticky(dtype=torch.float64), 0.99)
    equations, _ = outgoing(damped) if turned else incoming(damped)
    first = gmres.minimise(equations, target=1e-5, max_iterations=200)
    generator = torch.Generator().manual_seed(1)
    n = equations.right.numel()
    right = torch.randn(n, generator=generator, dtype=torch.float64) / n
    other = replace(equations, right=right)
    alone = gmres.minimise(other, target=1e-10, max_iterations=200)
    after = gmres.minimise(other, target=1e-10, max_iterations=200, after=first.cycle)
    again = gmres.minimise(other, target=1e-10, max_iterations=200, after=after.cycle)
    exact = torch.linalg.solve(other.matrix(), right)
    for found in (alone, after, again):
        assert float((found.x - exact).abs().sum()) < 1e-7
    assert again.products < after.products < alone.products


BROKEN_OFF = {
    "stay": torch.eye(64).double(),
    "blocks": torch.kron(torch.eye(16), torch.full((4, 4), 0.25)).double(),
    "half mirror": 0.5 * (torch.eye(64) + torch.eye(64).flip(0)).double(),
    "all to 0": torch.eye(64)[:1].expand(64, 64).double(),
}


@pytest.mark.parametrize("name", BROKEN_OFF)
@pytest.mark.parametrize("turned", [False, True], ids=["incoming", "outgoing"])
def test_invariant_subspaces_end_the_iteration_with_the_solution(
    name, turned, monkeypatch
):
    monkeypatch.setattr("attnchain.markov.solvers.linear.CACHED_LIMIT", 0)
    jump = torch.eye(64).double()[5]
    jump = (jump + torch.full((64,), 1 / 64)) / 2 if turned else jump
    chain = Damped(DenseTransition(BROKEN_OFF[name]), 0.99, jump)
    chain = ColumnNormalized(chain) if turned else chain
    found = stationary(chain, solver="gmres", tolerance=1e-9)
    error = float((found.distribution - exact(chain)).abs().sum())
    assert error <= float(found.error_bound) + 1e-12
    assert float(found.error_bound) <= 1e-9


def test_a_subspace_that_broke_off_can_be_recycled():
    equations, _ = incoming(Damped(DenseTransition(torch.eye(64).double()), 0.9))
    first, second = torch.eye(64).double()[:2]
    broken = gmres.minimise(
        replace(equations, right=first), target=1e-9, max_iterations=50
    )
    assert broken.products == 1
    after = gmres.minimise(
        replace(equations, right=second),
        target=1e-9,
        max_iterations=50,
        after=broken.cycle,
    )
    assert torch.allclose(after.x, 10 * second)


def test_a_residual_of_zero_ends_where_nothing_can_be_certified(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "10")
    stay = 1 - 2.0**-52
    matrix = torch.tensor([[stay, 1 - stay], [1 - stay, stay]], dtype=torch.float64)
    found = stationary(as_transition(matrix), on_failure="return")
    assert found.outcome is Outcome.STALLED
    assert float(found.residual) == 0
    assert float(found.error_bound) > 1e-6
