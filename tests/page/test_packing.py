"""Stored heads keep bounces, and TokenRank, to 1e-3 in L1."""

import base64
import zlib

import numpy as np
import pytest
import torch

from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped
from attnchain.page import packing
from attnchain.page.packing import LARGEST_ERROR, pack_heads, store_heads, text_of


def heads(generator, *, n=120, d=16, size=3.0, count=2):
    q, k = torch.randn(2, count, n, d, generator=generator) * size
    return AttentionTransition(q, k + 5.0)


def outgoing(matrix):
    return (matrix / matrix.sum(0)).T


def l1(found, exact):
    return float((found - exact).abs().sum(-1).max())


@pytest.mark.parametrize("size", [0.01, 1.0, 3.0, 8.0])
def test_one_bounce_from_every_state_is_kept_to_the_stated_error(generator, size):
    layer = heads(generator, size=size)
    exact = layer.to(torch.float64).to_dense()
    for head, matrix in zip(store_heads(layer), exact, strict=True):
        found = head.chain().to(torch.float64).to_dense()
        worst = max(l1(found, matrix), l1(outgoing(found), outgoing(matrix)))
        assert worst <= head.error + 2e-5
        assert head.error <= LARGEST_ERROR


def test_the_error_is_stated_where_no_step_is_fine_enough(generator, monkeypatch):
    monkeypatch.setattr(packing, "FINEST_STEP", 1.0)
    layer = heads(generator, size=3.0, count=1)
    (head,) = store_heads(layer)
    found = head.chain().to(torch.float64).to_dense()
    assert head.error > LARGEST_ERROR
    assert l1(found, layer.to(torch.float64).to_dense()[0]) <= head.error


def test_many_bounces_of_a_slow_chain_are_kept_to_1e_3(generator):
    """Two groups that are hardly ever left add up the errors of their bounces."""
    q = torch.randn(1, 200, 8, generator=generator)
    q[0, :, 0] += 8.0 * (torch.arange(200) < 100).float() - 4.0
    layer = AttentionTransition(q, q, scale=0.5)
    exact = layer.to(torch.float64).to_dense()[0]
    assert float(second_eigenvalue(layer).modulus) > 0.99
    found = store_heads(layer)[0].chain().to(torch.float64).to_dense()
    for walk in (lambda matrix: matrix, outgoing):
        step, exact_step = walk(found), walk(exact)
        walkers, exact_walkers = step, exact_step
        for _ in range(20):
            assert l1(walkers, exact_walkers) < 1e-3
            walkers, exact_walkers = walkers @ step, exact_walkers @ exact_step


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
    content = zlib.decompress(pack_heads(stored, columns=10), -15)
    steps = np.frombuffer(content, "<f4", 2 * 2 * 3)
    assert np.array_equal(
        steps, np.concatenate([s for h in stored for s in (h.q_steps, h.k_steps)])
    )
    splits = np.frombuffer(content, np.uint8, 12, offset=48).reshape(2, 2, 3)
    planes = 1 + (splits.astype(int) + 6) // 8
    assert len(content) == 48 + 12 + 50 * planes.sum()
    bits = int(splits[0, 0, 0]) - 1
    assert 8 < bits <= 16, "the leading component needs three planes"
    low, next_low = np.frombuffer(content, np.uint8, 100, offset=60).reshape(2, 50)
    before_high = 50 * int((planes[0] - 1).sum())
    high = np.frombuffer(content, np.int8, 50, offset=60 + before_high).astype(int)
    differences = low + 256 * next_low.astype(int) + 2**bits * high
    codes = stored[0].q_codes[0]
    assert codes[0] == differences[0]
    assert codes[9] == differences[9] + codes[8] // 4
    assert codes[34] == differences[34] + (codes[33] + codes[24]) // 4


@pytest.mark.parametrize("length", [4, 5, 6, 7])
def test_text_is_base_85_without_the_sign_that_opens_an_element(generator, length):
    content = bytes(torch.randint(256, (length,), generator=generator).tolist())
    text = text_of(content)
    expected = base64.a85encode(content).decode().replace("z", "!!!!!")
    digits = [chr(ord(character) + 2) for character in expected]
    assert text == "".join(digits).replace("<", "~")
