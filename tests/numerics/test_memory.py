"""Memory of single products and solves, measured; and no silent n x n storage."""

import subprocess
import sys
import warnings

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import ArgumentError, MaterializationWarning
from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped, Power, fits_budget
from attnchain.operators.memory import memory_budget

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
    chain = make(AttentionTransition(*queries_and_keys(800, 2), backend=backend))
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
    with pytest.warns(MaterializationWarning, match="GiB"):
        chain.to_dense()


def test_a_stored_back_end_above_the_budget_warns(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "100")
    chain = AttentionTransition(*queries_and_keys(800, 2), backend="dense")
    with pytest.warns(MaterializationWarning, match="GiB"):
        chain.push(torch.full((800,), 1 / 800))


def test_few_states_are_no_dense_form_worth_a_warning(monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "0")
    chain = AttentionTransition(*queries_and_keys(64, 8), backend="tiled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_eigenvalue(chain)
        stationary(Damped(chain, 0.99))


def test_the_budget_is_that_of_the_machine_not_of_the_moment(monkeypatch):
    monkeypatch.delenv("ATTNCHAIN_MEMORY_BUDGET", raising=False)
    asked = []

    def sysconf(name):
        asked.append(name)
        return {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**10}[name]

    monkeypatch.setattr("os.sysconf", sysconf)
    assert memory_budget(torch.device("cpu")) == 2**28
    assert set(asked) == {"SC_PHYS_PAGES", "SC_PAGE_SIZE"}


@pytest.mark.parametrize("bad", ["", "2GB", "-1", "1.5"])
def test_a_budget_that_is_no_number_of_bytes_is_refused(monkeypatch, bad):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", bad)
    with pytest.raises(ArgumentError, match="ATTNCHAIN_MEMORY_BUDGET"):
        fits_budget(torch.Size((2, 2)), torch.float32, torch.device("cpu"))


def test_the_printed_form_says_whether_matrices_are_stored(monkeypatch):
    q, k = queries_and_keys(100, 2)
    chain = AttentionTransition(q, k)
    assert repr(chain).endswith("cpu, stored)")
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "150000")  # one matrix, not two
    assert repr(chain).endswith("cpu, in pieces)")
    assert repr(AttentionTransition(q, k, backend="dense")).endswith("stored)")


HELD = """
import re, sys, torch
from pathlib import Path
from attnchain.markov import stationary
from attnchain.operators import *
torch.set_num_threads(1)

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

def solve(n):
    q, k = torch.randn(2, 12, n, 8, generator=torch.Generator().manual_seed(0))
    heads = AttentionTransition(q, k)
    chain = {
        "head": lambda: heads[0],
        "mixture": lambda: Mixture([heads], [torch.full((12,), 1 / 12)]),
        "restricted": lambda: Restricted(
            Mixture([heads], [torch.full((12,), 1 / 12)]), torch.arange(1, n)
        ),
    }[sys.argv[1]]()
    chain = Damped(chain)
    before = peak()
    stationary(ColumnNormalized(chain) if sys.argv[2] == "outgoing" else chain)
    return (peak() - before) / (8 * n * n)

solve(300)
print(solve(2_500))
"""


@needs_proc
@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
@pytest.mark.parametrize("kind", ["head", "mixture", "restricted"])
def test_a_solver_holds_two_double_precision_matrices_of_a_chain(kind, direction):
    command = [sys.executable, "-c", HELD.replace("\\\\\\\\", "\\\\"), kind, direction]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 1 <= float(ran.stdout) <= 2.3
