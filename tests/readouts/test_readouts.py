"""Readouts against dense float64, on captured attention and on stored matrices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnchain import as_transition, readouts
from attnchain.capturing import capture
from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators import AttentionTransition
from attnchain.testing.models import text

BACKENDS = ["dense", "tiled"]


def heads(n=9, *, causal=False, backend="auto", mask=None, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 3, n, 4, generator=generator, dtype=dtype) * 2
    return AttentionTransition(q, k, causal=causal, backend=backend, mask=mask)


def matrix(chain):
    """The softmax in float64, by torch alone."""
    scores = chain.q.double() @ chain.k.double().mT * chain.q.shape[-1] ** -0.5
    if chain.mask is not None:
        added = chain.mask.dtype != torch.bool
        scores = (
            scores + chain.mask
            if added
            else scores.masked_fill(~chain.mask, -torch.inf)
        )
    if chain.causal:
        later = torch.ones(scores.shape[-2:]).triu(1).bool()
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1)


def padded():
    """Causal attention of two texts, one of them padded."""
    tiny = text.llama_padded()
    with capture(tiny.model) as attention:
        tiny.run()
    return attention.select(layers=0)


MASKS = [
    None,
    torch.arange(9) != 3,
    torch.linspace(-3, 300, 9)[None].expand(9, 9).double(),
]


@pytest.mark.parametrize("mask", MASKS, ids=["none", "boolean", "added"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_entropies_are_those_of_the_matrix(backend, causal, mask):
    chain = heads(causal=causal, backend=backend, mask=mask)
    expected = torch.special.entr(matrix(chain)).sum(-1)
    found = readouts.row_entropy(chain)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    again = readouts.row_entropy(as_transition(matrix(chain)))
    torch.testing.assert_close(again, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [3, 9, 40])
def test_ranks_are_those_of_singular_values(n, causal):
    chain = heads(n, causal=causal, backend="tiled")
    sizes = torch.linalg.svdvals(matrix(chain))
    expected = sizes.square().sum(-1) / sizes[..., 0].square()
    torch.testing.assert_close(readouts.stable_rank(chain), expected, rtol=1e-9, atol=0)
    shares = sizes / sizes.sum(-1, keepdim=True)
    expected = (-(shares * shares.log()).sum(-1)).exp()
    found = readouts.effective_rank(chain)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_column_sums_and_means_are_those_of_the_matrix(backend, causal):
    chain = heads(causal=causal, backend=backend)
    sums = matrix(chain).sum(-2)
    torch.testing.assert_close(readouts.column_sums(chain), sums)
    may_look = (torch.ones(9, 9).tril() if causal else torch.ones(9, 9)).sum(0).double()
    torch.testing.assert_close(readouts.received(chain), sums / may_look)


@given(cut=st.integers(1, 8), seed=st.integers(0, 50))
def test_running_sums_are_those_of_the_whole_text(cut, seed):
    whole = matrix(heads(causal=True, seed=seed))
    before = whole[:, :cut, :cut].sum(-2)
    found = readouts.continued_sums(before, whole[:, cut:])
    torch.testing.assert_close(found, whole.sum(-2))


def test_sums_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="at least the 3 tokens"):
        readouts.continued_sums(torch.ones(3), torch.ones(1, 2))
    with pytest.raises(ShapeError, match="rows must be"):
        readouts.continued_sums(torch.ones(2, 3), torch.ones(1, 4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_laplacian_eigenvalues_are_those_of_the_matrix(backend):
    chain = heads(causal=True, backend=backend)
    dense = matrix(chain)
    degrees = dense.sum(-2) / torch.arange(9, 0, -1)
    laplacian = torch.diag_embed(degrees) - dense
    expected = torch.linalg.eigvals(laplacian).real.sort().values
    found = readouts.laplacian_eigenvalues(chain)
    torch.testing.assert_close(found.sort().values, expected, atol=1e-9, rtol=0)
    again = readouts.laplacian_eigenvalues(as_transition(dense))
    torch.testing.assert_close(again, found, atol=1e-12, rtol=0)


def test_a_laplacian_needs_causal_attention_without_padding():
    with pytest.raises(ArgumentError, match="needs causal attention"):
        readouts.laplacian_eigenvalues(heads())
    with pytest.raises(ShapeError, match="without padding"):
        readouts.laplacian_eigenvalues(padded())


def test_padding_reads_zero_and_changes_nothing():
    stacked = padded()
    found = readouts.row_entropy(stacked)
    assert bool((found[~stacked.live] == 0).all())
    for place, live in enumerate(stacked.live.flatten(0, 1)):
        one = stacked.members[place]
        expected = torch.special.entr(one.to_dense()).sum(-1)
        torch.testing.assert_close(
            found.flatten(0, 1)[place][live], expected, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("following", [0, 0.3, 0.9])
def test_the_resolvent_is_the_inverse_but_for_what_is_left_out(following):
    chain = heads(backend="tiled")
    dense, n = matrix(chain), 9
    inverse = torch.linalg.inv(torch.eye(n) - following * dense)
    expected = ((1 - following) * dense @ inverse)[:, 4]
    for tolerance in (1e-2, 1e-9):
        found = readouts.resolvent(chain, 4, following=following, tolerance=tolerance)
        missing = (expected - found.distribution).abs().sum(-1)
        assert found.left_out <= tolerance
        torch.testing.assert_close(
            missing,
            torch.full((3,), found.left_out, dtype=torch.float64),
            atol=1e-12,
            rtol=1e-9,
        )


@pytest.mark.parametrize("following", [1, -0.1, 2, math.nan, "x"])
def test_a_walk_must_end(following):
    with pytest.raises(ArgumentError, match="following"):
        readouts.resolvent(heads(), 0, following=following)


@given(seed=st.integers(0, 200), layers=st.integers(1, 3))
def test_sinks_are_found_as_by_loops(seed, layers):
    chains = [heads(6, causal=True, seed=seed + i) for i in range(layers)]
    found = {sink.token: sink for sink in readouts.sinks(chains, threshold=0.4)}
    dense = torch.stack([matrix(chain) for chain in chains])
    for token in range(6):
        means = dense[..., token].sum(-1) / (6 - token)
        above = (means > 0.4) & (token <= 3)
        assert (token in found) == bool(above.any())
        if token in found:
            sink = found[token]
            assert sink.first_layer == min(above.nonzero()[:, 0].tolist())
            assert sink.heads == pytest.approx(float(above.double().mean()))
            assert sink.mass == pytest.approx(float(means.mean()), abs=1e-6)
            assert sink.largest == pytest.approx(float(means.max()), abs=1e-6)


def test_sinks_need_layers_of_the_same_tokens():
    with pytest.raises(ShapeError, match="same tokens"):
        readouts.sinks([heads(4), heads(5)])
    with pytest.raises(ShapeError, match="same tokens"):
        readouts.sinks([])


@pytest.mark.parametrize("causal", [False, True])
def test_spectra_are_moduli_of_eigenvalues(causal):
    chain = heads(causal=causal, backend="tiled")
    values = torch.linalg.eigvals(matrix(chain)).abs().sort(descending=True).values
    found = readouts.head_spectra(chain, 4)
    torch.testing.assert_close(found, values[..., :4], atol=1e-3, rtol=0)


def test_heads_are_grouped_by_spectrum():
    fast, slow = torch.tensor([1.0, 0.1, 0.05]), torch.tensor([1.0, 0.95, 0.9])
    layers = [torch.stack([fast, slow, fast]), torch.stack([slow, fast, fast + 0.01])]
    assert readouts.cluster_heads(layers, 2).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert readouts.cluster_heads(layers[0], 1).tolist() == [0, 0, 0]
    with pytest.raises(ArgumentError, match="groups"):
        readouts.cluster_heads(layers[0], 4)
    with pytest.raises(ShapeError, match="one shape"):
        readouts.cluster_heads([layers[0], layers[0][:2]], 2)
