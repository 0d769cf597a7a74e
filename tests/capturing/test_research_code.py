"""Attention as researchers write it: read as it weighs values, or named as unread."""

import warnings

import pytest
import torch
from torch import einsum, nn
from torch.nn.functional import dropout, log_softmax, scaled_dot_product_attention

from attnchain.capturing import capture
from attnchain.errors import UnreadAttentionWarning, UnsupportedModelError

HEADS, LENGTH, WIDTH = 3, 5, 4
SCALE = WIDTH**-0.5


def normalised(x):
    return x / x.sum(-1, keepdim=True)


def by_pictures(q, k, v):
    parts = zip(q, k, v, strict=True)
    return torch.stack([(a @ b.mT * SCALE).softmax(-1) @ c for a, b, c in parts])


def head_by_head(q, k, v):
    rows = [
        [torch.mm((a @ b.t() * SCALE).softmax(-1), c) for a, b, c in zip(*one)]  # noqa: B905
        for one in zip(q, k, v, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def heads_last(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = (einsum("bqhd,bkhd->bqkh", q, k) * SCALE).softmax(2)
    return einsum("bqkh,bkhd->bqhd", weights, v).transpose(1, 2)


READ = {
    "einsum, values first": lambda q, k, v: einsum(
        "bhkd,bhqk->bhqd", v, (q @ k.mT * SCALE).softmax(-1)
    ),
    "einsum with dots": lambda q, k, v: einsum(
        "...qk, ...kd -> ...qd", (q @ k.mT * SCALE).softmax(-1), v
    ),
    "heads last": heads_last,
    "keys first": lambda q, k, v: (k @ q.mT * SCALE).softmax(-2).mT @ v,
    "keys first, values turned": lambda q, k, v: (
        (v.mT @ (k @ q.mT * SCALE).softmax(-2)).mT
    ),
    "keys first, einsum": lambda q, k, v: einsum(
        "bhkq,bhkd->bhqd", (k @ q.mT * SCALE).softmax(-2), v
    ),
    "an exponential by its sum": lambda q, k, v: (
        normalised((q @ k.mT * SCALE).exp()) @ v
    ),
    "the exponential of log_softmax": lambda q, k, v: (
        log_softmax(q @ k.mT * SCALE, -1).exp() @ v
    ),
    "normalised twice": lambda q, k, v: (
        normalised((q @ k.mT * SCALE).softmax(-1) * 1.0 + 1e-9) @ v
    ),
    "keywords": lambda q, k, v: torch.matmul(
        input=torch.softmax(input=q.matmul(other=k.mT * SCALE), dim=-1), other=v
    ),
    "dropout, then another precision": lambda q, k, v: (
        dropout((q @ k.mT * SCALE).softmax(-1).double(), 0.5).to(v) @ v
    ),
    "picture by picture": by_pictures,
    "matrix by matrix": head_by_head,
}
UNREAD = {
    "product and sum": lambda q, k, v: (
        (q @ k.mT * SCALE).softmax(-1)[..., None] * v[:, :, None]
    ).sum(-2),
    "divided after the values": lambda q, k, v: (
        (q @ k.mT).exp() @ v / (q @ k.mT).exp().sum(-1, keepdim=True)
    ),
    "the largest only": lambda q, k, v: (
        (q @ k.mT).softmax(-1).topk(2).values @ v[:, :, :2]
    ),
    "joined": lambda q, k, v: (
        torch.cat([(x @ k.mT).softmax(-1) for x in q.split([2, 3], 2)], 2) @ v
    ),
    "softmax of features": lambda q, k, v: q.softmax(-1) @ (k.softmax(-2).mT @ v),
}


class Block(nn.Module):
    """Any module, its name no hint."""

    def __init__(self, compute):
        super().__init__()
        self.qkv, self.compute = nn.Linear(12, 36), compute
        self.num_heads = HEADS

    def split(self, x):
        parts = self.qkv(x).chunk(3, -1)
        return [y.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for y in parts]

    def forward(self, x):
        return self.compute(*self.split(x)).transpose(1, 2).flatten(2)


def sequences(pictures):
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(pictures, LENGTH, 12, generator=generator)


def run(compute, x, **options):
    torch.manual_seed(1)
    model = Block(compute).eval()
    q, k, _ = model.split(x)
    with torch.no_grad(), capture(model, **options) as attention:
        model(x)
    return attention, (q @ k.mT * SCALE).softmax(-1).detach()


@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize("pictures", [2, HEADS])
def test_what_weighs_the_values_is_read(form, pictures):
    attention, expected = run(READ[form], sequences(pictures))
    matrix = torch.cat([r.probabilities().reshape(-1, 5, 5) for r in attention])
    torch.testing.assert_close(matrix, expected.flatten(0, 1), atol=2e-6, rtol=0)
    assert {record.site.kind for record in attention} == {"self"}
    if len(attention) == 1:
        assert attention[0].shape == expected.shape


@pytest.mark.parametrize("form", UNREAD)
def test_what_is_not_followed_is_named(form):
    with pytest.raises(UnsupportedModelError, match="by hand in the model"):
        run(UNREAD[form], sequences(2))


@pytest.mark.parametrize("form", UNREAD)
def test_beside_what_can_be_read_it_is_named_too(form):
    def both(q, k, v):
        first = scaled_dot_product_attention(q[:, :, :4], k[:, :, :4], v[:, :, :4])
        return torch.cat([UNREAD[form](q, k, v), first], 2)

    with pytest.warns(UnreadAttentionWarning, match="by hand in the model"):
        attention, _ = run(both, sequences(2))
    assert [record.shape for record in attention] == [(2, HEADS, 4, 4)]


@pytest.mark.parametrize("pictures", [2, HEADS, 2 * HEADS])
@pytest.mark.parametrize("fused", [True, False])
def test_one_head_at_a_time_is_no_batch_of_heads(pictures, fused):
    """(pictures, n, d), where pictures may be as many as heads."""

    def looped(q, k, v):
        heads = []
        for head in range(HEADS):
            a, b, c = q[:, head], k[:, head], v[:, head]
            if fused:
                heads.append(scaled_dot_product_attention(a, b, c))
            else:
                heads.append((a @ b.mT * SCALE).softmax(-1) @ c)
        return torch.stack(heads, 1)

    attention, expected = run(looped, sequences(pictures))
    for head, record in enumerate(attention):
        assert (record.site.layer, record.site.call) == (0, head)
        matrix = record.probabilities()
        torch.testing.assert_close(matrix, expected[:, head : head + 1])


def test_pictures_and_heads_in_one_axis_are_parted():
    def merged(q, k, v):
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        return ((q @ k.mT * SCALE).softmax(-1) @ v).unflatten(0, (-1, HEADS))

    attention, expected = run(merged, sequences(HEADS))
    torch.testing.assert_close(attention[0].probabilities(), expected)


def test_a_softmax_of_learned_prototypes_is_no_attention():
    """Neither is a router of experts."""

    class Prototypes(Block):
        def __init__(self):
            super().__init__(scaled_dot_product_attention)
            self.codes = nn.Parameter(torch.randn(7, 12))

        def forward(self, x):
            weights = (x @ self.codes.t()).softmax(-1)
            return super().forward(x) + weights @ self.codes

    model = Prototypes()
    with warnings.catch_warnings(), torch.no_grad(), capture(model) as attention:
        warnings.simplefilter("error")
        model(sequences(2))
    assert len(attention) == 1
