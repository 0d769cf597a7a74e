"""Capturing queries and keys never makes a tensor of n x n elements."""

import pytest
import torch
from tests.capturing.modules import Attending, Layers, sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnchain.capturing import capture

N = 4096
X = sequence(1, 2, N, 8)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements any operation gave."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


@pytest.mark.parametrize("options", [{}, {"layers": -1}, {"device": "cpu"}], ids=str)
def test_no_matrix_is_made(options):
    model = Layers(2)
    with torch.no_grad(), LargestTensor() as seen, capture(model, **options):
        model(X)
    assert X.numel() <= seen.elements <= 2 * X.numel()


def test_the_check_sees_a_matrix():
    model = Layers(2)
    with torch.no_grad(), LargestTensor() as seen, capture(model, keep="dense"):
        model(X)
    assert seen.elements >= N * N


def test_a_causal_call_makes_no_mask():
    model = Attending()
    with torch.no_grad(), LargestTensor() as seen, capture(model) as attention:
        model(X, X, X, is_causal=True)
    assert seen.elements <= 2 * X.numel()
    assert attention[0].mask is None
