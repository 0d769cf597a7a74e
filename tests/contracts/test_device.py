"""The same laws on a CUDA device, where there is one."""

import numpy as np
import pytest
import torch
from tests.operators.builders import attention, queries_and_keys

from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import Damped

pytestmark = pytest.mark.gpu


def test_operators_move_with_all_their_parts(pair):
    transition, twin = pair
    moved = transition.to("cuda")
    assert moved.device.type == "cuda"
    v = torch.full((transition.n_states,), 1 / transition.n_states)
    for found in (moved.push(v), moved.pull(v), moved.to_dense()):
        assert found.device.type == "cuda"
    np.testing.assert_allclose(moved.to_dense().cpu(), twin, rtol=0, atol=1e-4)


def test_answers_do_not_depend_on_the_device():
    transition, _ = attention(*queries_and_keys(3, 200, 8, size=2.0))
    moved = transition.to("cuda")
    here, there = (stationary(Damped(chain)) for chain in (transition, moved))
    error = (here.distribution - there.distribution.cpu()).abs().sum(-1)
    assert (error <= here.error_bound + there.error_bound.cpu()).all()
    here, there = (second_eigenvalue(chain) for chain in (transition, moved))
    torch.testing.assert_close(here.modulus, there.modulus.cpu(), atol=2e-4, rtol=0)
