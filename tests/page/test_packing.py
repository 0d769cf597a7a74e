"""Stored heads keep every probability, and TokenRank, to 1e-3."""

import zlib

import numpy as np
import pytest
import torch

from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped
from attnchain.page.packing import LARGEST_ERROR, pack_heads, store_heads


def heads(generator, *, n=120, d=16, size=3.0, count=2):
    q, k = torch.randn(2, count, n, d, generator=generator) * size
    return AttentionTransition(q, k + 5.0)


@pytest.mark.parametrize("size", [0.01, 1.0, 3.0, 5.0])
def test_every_probability_is_kept_to_the_stated_error(generator, size):
    layer = heads(generator, size=size)
    exact = layer.to(torch.float64).to_dense()
    for head, matrix in zip(store_heads(layer), exact, strict=True):
        off = float((head.chain().to_dense() - matrix).abs().max())
        assert off == pytest.approx(head.error, abs=1e-6)
        assert head.error <= LARGEST_ERROR


def test_the_error_is_stated_where_16_bits_are_too_few(generator):
    layer = heads(generator, size=20.0, count=1)
    (head,) = store_heads(layer)
    exact = layer.to(torch.float64).to_dense()[0]
    off = float((head.chain().to_dense() - exact).abs().max())
    assert head.error > LARGEST_ERROR
    assert off == pytest.approx(head.error, abs=1e-5)


def test_token_rank_and_second_eigenvalue_are_kept_to_1e_3(generator):
    layer = heads(generator)
    for head, chain in zip(store_heads(layer), layer.chains(), strict=True):
        kept = head.chain()
        rank, exact = (stationary(Damped(c)).distribution for c in (kept, chain))
        assert float((rank - exact).abs().sum()) < 1e-3
        moduli = [second_eigenvalue(c).modulus for c in (kept, chain)]
        assert float(moduli[0]) == pytest.approx(float(moduli[1]), abs=1e-3)


def test_a_scale_and_equal_keys_are_stored(generator):
    q = torch.randn(1, 9, 4, generator=generator)
    layer = AttentionTransition(q, q, scale=2.0)
    (head,) = store_heads(layer)
    assert float((head.chain().to_dense() - layer.to_dense()[0]).abs().max()) < 1e-3
    (flat,) = store_heads(AttentionTransition(q, torch.ones_like(q)))
    assert flat.error < 1e-6
    assert not flat.k_codes.any()


def test_packed_bytes_hold_the_codes_in_the_documented_order(generator):
    stored = store_heads(heads(generator, n=50, d=3))
    content = zlib.decompress(pack_heads(stored), -15)
    steps = np.frombuffer(content, "<f4", 2 * 2 * 3)
    assert np.array_equal(
        steps, np.concatenate([s for h in stored for s in (h.q_steps, h.k_steps)])
    )
    widths = np.frombuffer(content, np.uint8, 12, offset=48).reshape(2, 2, 3)
    assert len(content) == 48 + 12 + 50 * int(widths.sum())
    first = widths[0]
    assert first[0, 0] == 2, "the leading component needs two bytes"
    low = np.frombuffer(content, np.uint8, 50, offset=60)
    wide = int((first == 2).sum())
    high = np.frombuffer(content, np.int8, 50, offset=60 + 50 * wide)
    assert np.array_equal(low + 256 * high.astype(np.int16), stored[0].q_codes[0])
