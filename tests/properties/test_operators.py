"""Every operator hypothesis can nest, against dense float64 matrices, rows divided."""

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from torch.autograd import gradcheck

from attnchain import reference
from attnchain.errors import ReducibleChainError, ToleranceError
from attnchain.markov import stationary
from attnchain.operators import (
    AttentionTransition,
    ColumnNormalized,
    Damped,
    DenseTransition,
    Lazy,
    Mixture,
    Permuted,
    Power,
    Product,
    Restricted,
    Reversed,
)

CASTS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NOTHING = [-torch.inf, -1e30, float(torch.finfo(torch.float32).min), -1e4]


def rng_of(draw):
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def shares(rng, *shape):
    """Distributions of 17 digits, some entries small."""
    masses = rng.exponential(size=shape) ** 3 + 1e-9
    return masses / masses.sum(-1, keepdims=True)


def masked(rng, n, kind):
    """None, boolean, or numbers of all sizes; every query sees a key."""
    if kind == "none":
        return None
    seen = (rng.uniform(size=(n, n)) < 0.6) | np.eye(n, dtype=bool)
    if kind == "boolean":
        return torch.from_numpy(seen)
    bias = torch.from_numpy(rng.normal(size=(n, n)) * rng.choice([0.1, 3, 50]))
    bias = bias.float() if rng.uniform() < 0.5 else bias
    bias = bias.masked_fill(~torch.from_numpy(seen), rng.choice(NOTHING))
    whole = torch.from_numpy(rng.choice([0.0, -1e30, 1e5, -700.0], size=(n, 1)))
    return bias + whole.to(bias.dtype)


@st.composite
def attention(draw, batch, n):
    rng = rng_of(draw)
    d, dtype = int(rng.integers(1, 5)), draw(st.sampled_from(CASTS))
    size = rng.choice([0.1, 1.0, 4.0])
    heads = torch.from_numpy(size * rng.normal(size=(2, *batch, n, d))).to(dtype)
    q, k = heads
    if batch and rng.uniform() < 0.3:  # grouped: one key head for all queries
        k = k[:1].expand_as(k)
    scale = draw(st.sampled_from([None, 0.3, 1.0]))
    mask = masked(rng, n, draw(st.sampled_from(["none", "boolean", "additive"])))
    causal = draw(st.booleans())
    backend = draw(st.sampled_from(["auto", "dense", "tiled"]))
    chain = AttentionTransition(
        q, k, scale=scale, mask=mask, causal=causal, backend=backend
    )
    added = None if mask is None else mask.numpy()
    wide = [x.double().numpy().reshape(-1, n, d) for x in (q, k)]
    twin = [
        reference.attention(a, b, scale=scale, mask=added, causal=causal)
        for a, b in zip(*wide, strict=True)
    ]
    return chain, np.stack(twin).reshape(*batch, n, n)


@st.composite
def stored(draw, batch, n):
    rng = rng_of(draw)
    dtype = draw(st.sampled_from(CASTS))
    uneven = 1 + rng.uniform(-4e-6, 4e-6, size=(*batch, n, 1))
    given = torch.from_numpy(shares(rng, *batch, n, n) * uneven).to(dtype)
    return DenseTransition(given), reference_rows(given.double().numpy())


def reference_rows(matrices):
    return matrices / matrices.sum(-1, keepdims=True)


def each(function, twin):
    n = twin.shape[-1]
    made = [function(p) for p in twin.reshape(-1, n, n)]
    return np.stack(made).reshape(*twin.shape[:-2], *made[0].shape)


def _damped(draw, chain, twin):
    rng, damping = rng_of(draw), draw(st.sampled_from([0.3, 0.9, 0.999]))
    v = shares(rng, chain.n_states)
    v = torch.from_numpy(v).to(draw(st.sampled_from(CASTS[:2])))
    made = each(lambda p: reference.damped(p, damping, v.double().numpy()), twin)
    return Damped(chain, damping, v), made


def _lazy(draw, chain, twin):
    holding = draw(st.floats(0, 1))
    return Lazy(chain, holding), each(lambda p: reference.lazy(p, holding), twin)


def _power(draw, chain, twin):
    exponent = draw(st.integers(1, 3))
    return Power(chain, exponent), each(lambda p: reference.power(p, exponent), twin)


def _permuted(draw, chain, twin):
    order = rng_of(draw).permutation(chain.n_states)
    made = each(lambda p: reference.permuted(p, order), twin)
    return Permuted(chain, torch.from_numpy(order)), made


def _product(draw, chain, twin):
    other, matrix = draw(stored(chain.batch_shape, chain.n_states))
    other = other.to(chain.dtype)
    matrix = reference_rows(other.to(torch.float64).to_dense().numpy())
    return Product([chain, other]), twin @ matrix


def _restricted(draw, chain, twin):
    rng, n = rng_of(draw), chain.n_states
    keep = rng.permutation(n)[: int(rng.integers(1, n + 1))]
    kept = Restricted(Damped(chain, 0.9), torch.from_numpy(keep))
    whole = each(lambda p: reference.damped(p, 0.9), twin)
    return kept, each(lambda p: reference.restricted(p, keep), whole)


def _outgoing(_, chain, twin):
    whole = each(lambda p: reference.damped(p, 0.9), twin)
    return ColumnNormalized(Damped(chain, 0.9)), each(
        reference.column_normalized, whole
    )


def _reversed(_, chain, twin):
    whole = each(lambda p: reference.damped(p, 0.9), twin)
    pi = each(lambda p: reference.stationary(p)[None], whole)[..., 0, :]
    backwards = [
        reference.reversed_(p, v)
        for p, v in zip(
            whole.reshape(-1, *whole.shape[-2:]),
            pi.reshape(-1, pi.shape[-1]),
            strict=True,
        )
    ]
    chain = Reversed(Damped(chain, 0.9), torch.from_numpy(pi))
    return chain, np.stack(backwards).reshape(whole.shape)


def _mixture(draw, chain, twin):
    rng, flat = rng_of(draw), twin.reshape(-1, *twin.shape[-2:])
    weights = shares(rng, len(flat))
    given = torch.from_numpy(weights).view(chain.batch_shape)
    return Mixture([chain], [given]), reference.mixture(flat, weights)


STEPS = [
    _damped,
    _lazy,
    _power,
    _permuted,
    _product,
    _restricted,
    _outgoing,
    _reversed,
    _mixture,
]


@st.composite
def operators(draw):
    """A chain of any kind, nested up to three deep, and its float64 matrix."""
    n = draw(st.integers(1, 7))
    batch = draw(st.sampled_from([(), (2,), (2, 3)]))
    chain, twin = draw(st.one_of(attention(batch, n), stored(batch, n)))
    for step in draw(st.lists(st.sampled_from(STEPS), max_size=3)):
        chain, twin = step(draw, chain, twin)
    return chain, twin


thorough = settings(max_examples=250, suppress_health_check=list(HealthCheck))


@thorough
@given(operators())
def test_every_operator_is_its_matrix_within_its_row_error(made):
    chain, twin = made
    n = chain.n_states
    v = torch.from_numpy(shares(np.random.default_rng(0), n))
    for exact in (chain, chain.to(torch.float64)):
        allowed = exact.row_error + 1e-12  # of the twin
        found = exact.to_dense().double().numpy()
        assert np.abs(found - twin).sum(-1).max() <= allowed
        rounding = (n + 4) * torch.finfo(exact.dtype).eps
        pushed = exact.push(v).double().numpy() - v.numpy() @ twin
        assert np.abs(pushed).sum(-1).max() <= allowed + rounding
        pulled = exact.pull(v).double().numpy() - twin @ v.numpy()
        assert np.abs(pulled).max() <= allowed + rounding


@thorough
@given(operators(), st.sampled_from([0.5, 0.99, 0.9999]), st.booleans())
def test_token_rank_of_every_operator_is_within_its_bound(made, damping, outgoing):
    chain, twin = made
    damped = Damped(chain, damping)
    direction = "outgoing" if outgoing else "incoming"
    asked = ColumnNormalized(damped) if outgoing else damped
    found = stationary(asked, tolerance=1e-5)
    expected = each(
        lambda p: reference.token_rank(p, damping, direction=direction)[None], twin
    )[..., 0, :]
    error = np.abs(found.distribution.numpy() - expected).sum(-1)
    floor = 1e-14 * chain.n_states / (1 - damping)  # of the dense twin
    assert (error <= found.error_bound.numpy() + floor).all()


@thorough
@given(operators())
def test_undamped_answers_are_within_their_bound(made):
    chain, twin = made
    try:
        found = stationary(chain, tolerance=1e-5)
    except (ReducibleChainError, ToleranceError):
        return
    expected = each(lambda p: reference.stationary(p)[None], twin)[..., 0, :]
    error = np.abs(found.distribution.numpy() - expected).sum(-1)
    assert (error <= 2 * found.error_bound.numpy() + 1e-13).all()


DIFFERENTIABLE = [
    lambda p: Damped(p, 0.9),
    lambda p: Lazy(p, 0.25),
    lambda p: Power(p, 2),
    lambda p: Permuted(p, torch.arange(p.n_states).flip(0)),
    lambda p: Restricted(p, torch.arange(1, p.n_states) if p.n_states > 1 else [0]),
    lambda p: ColumnNormalized(Damped(p, 0.9)),
    lambda p: Product([p, Lazy(p, 0.5)]),
]


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.sampled_from(DIFFERENTIABLE), max_size=2),
    st.integers(0, 2**32 - 1),
)
def test_gradients_agree_with_finite_differences(n, steps, seed):
    rng = np.random.default_rng(seed)
    q, k = torch.from_numpy(rng.normal(size=(2, 2, n, 2))).clone().unbind()
    matrix = torch.from_numpy(shares(rng, 2, n, n) / 2 + 0.5 / n)
    weights = torch.from_numpy(shares(rng, 2))
    target = torch.from_numpy(rng.normal(size=n))

    def chain_of(q, k, matrix, weights):
        both = Product([AttentionTransition(q, k), DenseTransition(matrix, atol=1e-2)])
        mixed = Mixture([both], [weights.softmax(-1)])
        for step in steps:
            mixed = step(mixed)
        return mixed

    def product(*given):
        chain = chain_of(*given)
        return chain.push(target[: chain.n_states]) + chain.to_dense().sum(0)

    def rank(*given):
        chain = Damped(chain_of(*given), 0.8)
        return stationary(chain, tolerance=1e-10).distribution

    given_ = [x.clone().requires_grad_() for x in (q, k, matrix, weights)]
    assert gradcheck(product, given_, atol=1e-6)
    assert gradcheck(rank, given_, atol=1e-6)
