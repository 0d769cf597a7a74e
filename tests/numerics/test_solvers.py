"""Every solver against a dense solve; certificates; restarts; hard chains."""

from dataclasses import replace

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.markov import gmres, second_eigenvalue, spectrum, stationary
from attnchain.markov.certified import incoming, outgoing
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
)

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
    monkeypatch.setattr("attnchain.markov.linear.CACHED_LIMIT", limit)
    chain = Damped(sticky(), 0.95)
    chain = ColumnNormalized(chain) if turned else chain
    found = stationary(chain, solver=solver)
    error = float((found.distribution - exact(chain)).abs().sum())
    assert error <= float(found.error_bound) <= 1e-6


@pytest.mark.parametrize("solver", ["auto", "gmres", "anderson"])
def test_undamped_chains_too_large_to_invert(solver, monkeypatch):
    monkeypatch.setattr("attnchain.markov.stationarity.INVERSE_LIMIT", 100)
    chain = AttentionTransition(*queries_and_keys(200, 8))
    found = stationary(chain, solver=solver, tolerance=1e-9)
    assert float((found.distribution - exact(chain)).abs().sum()) < 1e-8
    assert float(found.residual) <= 1e-9
    assert float(found.error_bound) == float("inf")


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
    monkeypatch.setattr("attnchain.markov.linear.CACHED_LIMIT", 0)
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
