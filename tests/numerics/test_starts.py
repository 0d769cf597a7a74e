"""Where a solver starts changes what it costs, never what it finds."""

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import ShapeError
from attnchain.markov import stationary
from attnchain.operators import AttentionTransition, ColumnNormalized, Damped


def damped(n=300):
    return Damped(AttentionTransition(*queries_and_keys(n, 6)), 0.9)


def test_a_start_changes_the_cost_only():
    chain = damped()
    rough = chain.push(torch.full((300,), 1 / 300, dtype=torch.float64))
    warm = stationary(chain, start=rough, tolerance=1e-9)
    cold = stationary(chain, tolerance=1e-9)
    error = (warm.distribution - cold.distribution).abs().sum()
    assert error <= warm.error_bound + cold.error_bound


@pytest.mark.parametrize("side", ["incoming", "outgoing"])
def test_the_answer_is_where_nothing_is_left_to_do(side):
    chain = damped() if side == "incoming" else ColumnNormalized(damped())
    found = stationary(chain, tolerance=1e-9)
    again = stationary(chain, start=found.distribution, tolerance=1e-8)
    assert int(again.iterations) == 0


@pytest.mark.parametrize("shape", [(5,), (2, 80)])
def test_starts_that_do_not_fit_are_refused(shape):
    start = torch.full(shape, 1 / shape[-1])
    with pytest.raises(ShapeError, match="start"):
        stationary(damped(80), start=start)
