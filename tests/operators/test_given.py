"""What a chain is made of stays what it was, or is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from tests.operators.builders import queries_and_keys, random_rows

from attnchain.errors import ArgumentError
from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Mixture,
    Permuted,
    Restricted,
    Reversed,
    as_transition,
)

ASK = {
    "push": lambda chain: chain.push(torch.ones(chain.n_states)),
    "pull": lambda chain: chain.pull(torch.ones(chain.n_states)),
    "to_dense": lambda chain: chain.to_dense(),
    "index": lambda chain: chain[0],
    "to": lambda chain: chain.to(torch.float64),
    "stationary": lambda chain: stationary(Damped(chain)),
    "second_eigenvalue": second_eigenvalue,
}
ASK_ATTENTION = {
    **ASK,
    "row_error": lambda chain: chain.row_error,
    "diagonal": lambda chain: chain.diagonal(),
    "restrict": lambda chain: chain.restrict([0, 1]),
}


@pytest.mark.parametrize("backend", ["auto", "tiled"])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", ["q", "k", "mask"])
@pytest.mark.parametrize("ask", ASK_ATTENTION.values(), ids=ASK_ATTENTION.keys())
def test_attention_changed_in_place_is_refused(ask, name, used, backend):
    q, k = (x.clone() for x in queries_and_keys(2, 5, 3, dtype=torch.float32))
    given = {"q": q, "k": k, "mask": torch.zeros(5, 5)}
    chain = AttentionTransition(**given, backend=backend)
    if used:
        ask(chain)
    given[name].mul_(2)
    with pytest.raises(ArgumentError, match=rf"{name} was changed.*clone"):
        ask(chain)


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK.keys())
def test_a_stored_matrix_changed_in_place_is_refused(ask):
    matrix = torch.from_numpy(random_rows(2, 5, 5)).float()
    chain = DenseTransition(matrix)
    ask(chain)
    matrix[0, 0].mul_(2)
    with pytest.raises(ArgumentError, match=r"matrix was changed.*clone"):
        ask(chain)


def test_parts_of_a_chain_are_watched_too():
    q, k = queries_and_keys(2, 5, 3)
    part = AttentionTransition(q, k)[1]
    q[0] = 0
    with pytest.raises(ArgumentError, match="q was changed"):
        part.push(torch.ones(5))


def test_numbers_that_were_widened_are_a_copy():
    q, k = queries_and_keys(5, 3, dtype=torch.float16)
    chain = AttentionTransition(q, k)
    before = chain.to_dense()
    q.zero_()
    torch.testing.assert_close(chain.to_dense(), before, atol=0, rtol=0)


def test_vectors_of_a_chain_are_copies():
    heads = DenseTransition(torch.from_numpy(random_rows(2, 3, 3)))
    symmetric = DenseTransition(torch.full((3, 3), 1 / 3).double())
    v, weights = torch.full((3,), 1 / 3).double(), torch.tensor([0.5, 0.5]).double()
    keep, order = torch.tensor([0, 2]), torch.tensor([2, 0, 1])
    made = [
        Damped(heads, 0.9, v),
        Mixture([heads], [weights]),
        Reversed(symmetric, v),
        Restricted(heads, keep),
        Permuted(heads, order),
    ]
    before = [chain.to_dense() for chain in made]
    for given in (v, weights, keep, order):
        given.copy_(given.flip(0))
        given[0] = 0
    for chain, matrix in zip(made, before, strict=True):
        torch.testing.assert_close(chain.to_dense(), matrix, atol=0, rtol=0)


def test_arrays_are_copied():
    matrix = random_rows(3, 3)
    chain = as_transition(matrix)
    before = chain.to_dense().clone()
    matrix[:] = np.eye(3)
    torch.testing.assert_close(chain.to_dense(), before, atol=0, rtol=0)


def pickled(chain):
    return pickle.loads(pickle.dumps(chain))  # noqa: S301


@pytest.mark.parametrize("clone", [copy.deepcopy, pickled])
def test_copies_of_a_chain_are_watched_for_themselves(clone):
    q, k = queries_and_keys(5, 3)
    q.mul_(2)
    chain = Damped(AttentionTransition(q, k))
    twin = clone(chain)
    q.mul_(2)
    twin.push(torch.ones(5))
    with pytest.raises(ArgumentError, match="q was changed"):
        chain.push(torch.ones(5))
    twin.base.q.mul_(2)
    with pytest.raises(ArgumentError, match="q was changed"):
        twin.push(torch.ones(5))


def made_of(q, k, v):
    chain = Damped(AttentionTransition(q, k, mask=torch.zeros(6, 6)), 0.9, v)
    mixed = Mixture([chain], [torch.tensor([0.25, 0.75])])
    kept = Restricted(mixed, torch.arange(5))
    stored = DenseTransition(torch.softmax(q, -1)[0] @ torch.softmax(k[0].mT, 0).mT)
    return ColumnNormalized(kept), stored


@pytest.mark.parametrize("use_inside", [False, True])
def test_chains_made_in_inference_mode_can_be_used_outside(use_inside):
    q, k = queries_and_keys(2, 6, 6, dtype=torch.float32)
    v = torch.full((6,), 1 / 6)
    expected = [chain.to_dense() for chain in made_of(q, k, v)]
    with torch.inference_mode():
        chains = made_of(q.clone(), k.clone(), v.clone())
        if use_inside:
            [chain.push(torch.ones(chain.n_states)) for chain in chains]
    for chain, matrix in zip(chains, expected, strict=True):
        ones = torch.ones(chain.n_states, requires_grad=True)
        chain.push(ones).square().sum().backward()
        torch.testing.assert_close(ones.grad, 2 * matrix @ matrix.sum(0))


def test_inference_tensors_changed_inside_inference_mode_change_nothing():
    with torch.inference_mode():
        q, k = (x.clone() for x in queries_and_keys(5, 3))
        chain = AttentionTransition(q, k)
        before = chain.row_error
        q.mul_(2)
        twin = AttentionTransition(q / 2, k)
        torch.testing.assert_close(chain.to_dense(), twin.to_dense())
        assert chain.to(torch.float64).row_error == before
