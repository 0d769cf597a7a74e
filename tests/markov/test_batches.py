"""Chains solved side by side give what they give one after the other."""

import gc
import sys
import threading
import weakref

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import ConvergenceError, NumericalWarning
from attnchain.markov import batches, second_eigenvalue, spectrum, stationary
from attnchain.markov.batches import for_each_chain
from attnchain.operators import AttentionTransition, Damped, DenseTransition
from attnchain.testing import chains


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def heads(count=5, n=140):
    return AttentionTransition(*queries_and_keys(count, n, 8))


def names(chain):
    return threading.current_thread().name, torch.get_num_threads()


def test_small_chains_run_in_threads_of_their_own(two_threads):
    found = for_each_chain(names, heads())
    assert {threads for _, threads in found} == {1}
    assert all(name.startswith("chain") for name, _ in found)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("reason", ["one thread", "one chain", "large", "memory"])
def test_otherwise_the_caller_solves(reason, two_threads, monkeypatch):
    if reason == "one thread":
        torch.set_num_threads(1)
    if reason == "large":
        monkeypatch.setattr(batches, "SHARED_LIMIT", 139)
    if reason == "memory":
        monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", str(3 * 140 * 140 * 8))
    found = for_each_chain(names, heads(1 if reason == "one chain" else 5))
    assert {name for name, _ in found} == {threading.current_thread().name}


@pytest.mark.parametrize(
    "solve",
    [
        lambda chain: stationary(Damped(chain, 0.9)).distribution,
        lambda chain: second_eigenvalue(chain, tolerance=1e-8).modulus,
        lambda chain: spectrum(chain, 3, tolerance=1e-8).eigenvalues.abs(),
    ],
    ids=["stationary", "second", "spectrum"],
)
def test_results_are_the_same_and_in_order(solve, two_threads):
    chain = heads()
    together = solve(chain)
    torch.set_num_threads(1)
    alone = torch.stack([solve(single) for single in chain.chains()])
    assert torch.allclose(together.double(), alone.double(), atol=1e-6)


def test_an_error_in_a_thread_reaches_the_caller(two_threads):
    def refuse(chain):
        raise ConvergenceError(f"none for {chain!r}")

    with pytest.raises(ConvergenceError):
        for_each_chain(refuse, heads())
    assert torch.get_num_threads() == 2


def test_errors_at_once_leave_no_thread_waiting(two_threads):
    """On a busy machine the caller failed while a thread was still beginning."""

    def fail(_):
        raise ZeroDivisionError

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            with pytest.raises(ZeroDivisionError):
                for_each_chain(fail, heads(5, 4))
    finally:
        sys.setswitchinterval(interval)
    assert torch.get_num_threads() == 2


def test_an_error_while_chains_are_drawn_reaches_the_caller(two_threads):
    with pytest.raises(ValueError, match="zip"):
        for_each_chain(names, heads(), [1, 2, 3])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_the_gradient_mode_is_the_callers(mode, two_threads):
    with mode():
        expected = torch.is_grad_enabled()
        found = for_each_chain(lambda _: torch.is_grad_enabled(), heads())
    assert set(found) == {expected}


def test_inference_mode_is_the_callers(two_threads):
    with torch.inference_mode():
        found = for_each_chain(lambda _: torch.is_inference_mode_enabled(), heads())
        assert set(found) == {True}
        assert float(stationary(Damped(heads(), 0.9)).error_bound.max()) <= 1e-6


def test_threads_of_others_keep_their_number(two_threads):
    others = []

    def watched(chain):
        if not others:
            new = threading.Thread(
                target=lambda: others.append(torch.get_num_threads())
            )
            new.start()
            new.join()
        return chain.n_states

    for_each_chain(watched, heads())
    assert others[0] == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain_is_let_go_once_it_is_solved(threads, two_threads):
    torch.set_num_threads(threads)
    alive, most = weakref.WeakSet(), []

    def watched(chain):
        alive.add(chain)
        gc.collect()
        most.append(len(alive))
        return 0

    for_each_chain(watched, heads(6))
    assert max(most) <= threads + 1


@pytest.mark.parametrize("threads", [1, 2])
def test_a_warning_points_to_the_caller(threads, two_threads):
    torch.set_num_threads(threads)
    drift = chains.birth_death(200, 0.3, 0.2).matrix
    with pytest.warns(NumericalWarning, match="ill-conditioned") as told:
        second_eigenvalue(DenseTransition(torch.stack([drift, drift])))
    assert [warning.filename for warning in told] == [__file__]
