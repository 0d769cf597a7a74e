"""Operators that promise O(n) memory never make a tensor of n x n elements."""

import pytest
import torch
from tests.operators.builders import queries_and_keys
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    Grouped,
    Lazy,
    Mixture,
    Power,
    Restricted,
)

N = 4096
COMBINATORS = {
    "AttentionTransition": lambda chain: chain,
    "restrict": lambda chain: chain.restrict(torch.arange(1, N)),
    "Restricted": lambda chain: Restricted(chain, torch.arange(1, N)),
    "Damped": Damped,
    "ColumnNormalized": ColumnNormalized,
    "Grouped": lambda chain: Grouped(chain, torch.arange(N) % 4),
    "Lazy": Lazy,
    "Power": lambda chain: Power(chain, 2),
    "Mixture": lambda chain: Mixture([chain, chain], list(torch.tensor([0.5, 0.5]))),
}


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements any operation gave."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                stored = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.elements = max(self.elements, stored)
        return result


@pytest.fixture
def tiled():
    q, k = queries_and_keys(N, 8, dtype=torch.float32)
    return AttentionTransition(q, k, backend="tiled")


@pytest.mark.parametrize("combine", COMBINATORS.values(), ids=COMBINATORS.keys())
def test_products_in_tiles(tiled, combine):
    with LargestTensor() as seen:
        chain = combine(tiled)
        v = torch.full((chain.n_states,), 1 / chain.n_states)
        chain.push(v)
        chain.pull(v)
    assert seen.elements < N * N / 16


def test_gradients_in_tiles(tiled):
    q, k = tiled.q.clone().requires_grad_(), tiled.k.clone().requires_grad_()
    v = torch.full((N,), 1 / N)
    with LargestTensor() as seen:
        AttentionTransition(q, k, backend="tiled").push(v).square().sum().backward()
    assert seen.elements < N * N / 16


def test_the_automatic_backend_obeys_the_budget(tiled, monkeypatch):
    monkeypatch.setenv("ATTNCHAIN_MEMORY_BUDGET", "1000000")
    v = torch.full((N,), 1 / N)
    with LargestTensor() as seen:
        AttentionTransition(tiled.q, tiled.k).push(v)
    assert seen.elements < N * N / 16


def test_the_measurement_sees_a_stored_matrix(tiled):
    v = torch.full((N,), 1 / N)
    with LargestTensor() as seen:
        AttentionTransition(tiled.q, tiled.k, backend="dense").push(v)
    assert seen.elements >= N * N
