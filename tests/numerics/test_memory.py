"""Memory of single products and solves, measured; and no silent n x n storage."""

import subprocess
import sys
import warnings

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import MaterializationWarning
from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped, Power

MEASURE = """
import re, sys, torch
from pathlib import Path
from attnchain.operators import AttentionTransition
torch.set_num_threads(1)

def peak():  # of this process: ru_maxrss would start from the parent's
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024

def products(n):
    q, k = torch.randn(2, n, 64)
    v = torch.full((n,), 1 / n)
    before = peak()
    chain = AttentionTransition(q, k, backend=sys.argv[1])
    chain.push(v)
    chain.pull(v)
    return peak() - before

products(512)
print(products(int(sys.argv[2])))
"""
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def growth(backend, n):
    """MiB by which a push and a pull raise the peak of a fresh process."""
    command = [sys.executable, "-c", MEASURE, backend, str(n)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(ran.stdout)


@needs_proc
def test_a_product_of_16384_tokens_takes_at_most_64_mib():
    assert growth("tiled", 16_384) <= 64


@needs_proc
def test_the_measurement_sees_a_stored_matrix():
    assert growth("dense", 5_000) >= 95


@pytest.mark.parametrize("make", [lambda p: p, Damped, lambda p: Power(p, 2)])
@pytest.mark.parametrize("backend", ["auto", "tiled"])
def test_dense_forms_above_the_budget_warn(monkeypatch, make, backend):
    chain = make(AttentionTransition(*queries_and_keys(8, 2), backend=backend))
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
    with pytest.warns(MaterializationWarning, match="GiB"):
        chain.to_dense()


def test_a_stored_back_end_above_the_budget_warns(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
    chain = AttentionTransition(*queries_and_keys(8, 2), backend="dense")
    with pytest.warns(MaterializationWarning, match="GiB"):
        chain.push(torch.full((8,), 1 / 8))


def test_few_states_are_no_dense_form_worth_a_warning(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "0")
    chain = AttentionTransition(*queries_and_keys(64, 8), backend="tiled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_eigenvalue(chain)
        stationary(Damped(chain, 0.99))
