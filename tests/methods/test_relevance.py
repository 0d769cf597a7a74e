"""Relevance: the released rules, closed forms, real gradients; refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnchain import capture
from attnchain.capturing import AttentionSite, DenseRecord
from attnchain.capturing.backward import Trace
from attnchain.errors import (
    ArgumentError,
    CaptureError,
    NotStochasticError,
    ShapeError,
    SiteNotFoundError,
)
from attnchain.methods import cross_relevance, relevance, residual_shares, rollout
from attnchain.testing.models import importable_torchvision, text, vision

RELEASED = np.load(Path(__file__).parent / "chefer_released.npz")


def record(matrix, layer=0, kind="self", attached=None):
    """A layer whose probabilities are given, `(heads, n, m)`, and its graph."""
    matrix = torch.as_tensor(matrix)[None]
    trace = None if attached is None else Trace(matrix.shape[:3], tensor=attached)
    return DenseRecord(AttentionSite(layer, f"l{layer}", kind), matrix, trace=trace)


def with_gradient(pairs):
    """Layers and a score whose gradient at each of them is given."""
    attached = [
        torch.as_tensor(a)[None].detach().clone().requires_grad_() for a, _, _ in pairs
    ]
    slopes = [torch.as_tensor(slope)[None] for _, slope, _ in pairs]
    score = sum((a * slope).sum() for a, slope in zip(attached, slopes, strict=True))
    records = [
        record(a.detach()[0], layer, kind, a)
        for layer, (a, (_, _, kind)) in enumerate(zip(attached, pairs, strict=True))
    ]
    return records, score


def random_layers(count=3, heads=2, n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, heads, n, n, generator=generator, dtype=torch.float64)
    return (2 * scores).softmax(-1)


def test_the_released_rules_for_two_streams():
    pairs = []
    for i in range(3):
        for name, kind in (
            ("self_s", "self"),
            ("self_q", "self"),
            ("cross_sq", "cross"),
        ):
            stream = name.partition("_")[2]
            slope = RELEASED[f"grad_{stream}_{i}"][0]
            pairs.append((RELEASED[f"{name}_{i}"][0], slope, kind))
    records, score = with_gradient(pairs)
    found = cross_relevance(records, {"s": 5, "q": 7}, gradient=score)
    for one in "sq":
        for other in "sq":
            expected = torch.from_numpy(RELEASED[f"R{one}{other}"])
            block = found.between(one, other)[0]
            torch.testing.assert_close(block, expected, atol=2e-6, rtol=1e-5)


def test_the_released_rollout():
    records = [record(RELEASED[f"self_s_{i}"][0], i) for i in range(3)]
    expected = torch.from_numpy(RELEASED["rollout"])
    found = rollout(records).to_dense()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(relevance(records, weights=0.5).matrix, expected)


def test_the_last_layer_is_leftmost():
    first, last = random_layers(2, heads=1)
    records = [record(first), record(last, 1)]
    one = torch.eye(5, dtype=torch.float64)
    expected = (one + last[0]) @ (one + first[0])
    assert not torch.allclose(expected, (one + first[0]) @ (one + last[0]))
    torch.testing.assert_close(relevance(records).matrix[0], expected)
    torch.testing.assert_close(rollout(records).to_dense()[0], expected / 4)
    start = torch.zeros(1, 5, dtype=torch.float64)
    start[0, 2] = 1
    torch.testing.assert_close(rollout(records).push(start), relevance(
        records, weights=0.5).of(2))  # fmt: skip


def test_a_gradient_of_ones_is_no_gradient():
    layers = random_layers()
    plain = [record(matrix, i) for i, matrix in enumerate(layers)]
    records, score = with_gradient([(m, torch.ones_like(m), "self") for m in layers])
    for weights in (None, 0.5):
        assert torch.equal(
            relevance(records, gradient=score, weights=weights).matrix,
            relevance(plain, weights=weights).matrix,
        )


@given(st.integers(0, 1000), st.booleans())
def test_with_weights_it_is_a_product_of_chains(seed, with_score):
    generator = torch.Generator().manual_seed(seed)
    layers = random_layers(seed=seed)
    slopes = torch.randn(layers.shape, generator=generator, dtype=torch.float64)
    pairs = [(m, g, "self") for m, g in zip(layers, slopes, strict=True)]
    records, score = with_gradient(pairs)
    weights = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    found = relevance(
        records,
        gradient=score if with_score else None,
        weights=list(weights),
        normalize=True,
    )
    assert float(found.matrix.min()) >= 0
    torch.testing.assert_close(found.row_sums, torch.ones(1, 5, dtype=torch.float64))
    flows = (layers * slopes).clamp_min(0).mean(1) if with_score else layers.mean(1)
    expected = torch.eye(5, dtype=torch.float64)
    for flow, w in zip(flows, weights, strict=True):
        sums = flow.sum(-1, keepdim=True)
        step = torch.diag(w) + torch.diag(1 - w) @ (flow / sums)
        step = torch.where(sums > 0, step, torch.eye(5, dtype=torch.float64))
        expected = step @ expected
    torch.testing.assert_close(found.matrix[0], expected)


def test_weights_of_one_leave_every_token_its_own():
    records = [record(matrix, i) for i, matrix in enumerate(random_layers())]
    one = torch.eye(5, dtype=torch.float64)[None]
    assert torch.equal(relevance(records, weights=1).matrix, one)
    assert torch.equal(relevance(records, weights=[torch.ones(5)] * 3).matrix, one)


def test_rows_without_relevance_stay():
    [matrix] = random_layers(1)
    slope = torch.ones_like(matrix)
    slope[:, 3] = -1
    records, score = with_gradient([(matrix, slope, "self")])
    found = relevance(records, gradient=score, weights=0.3, normalize=True)
    assert found.matrix[0, 3].tolist() == [0, 0, 0, 1, 0]
    unbounded = relevance(records, gradient=score, weights=0.3)
    torch.testing.assert_close(unbounded.row_sums[0, 3].item(), 0.3)


def test_chefers_rows_grow():
    records = [record(matrix, i) for i, matrix in enumerate(random_layers(4))]
    sums = relevance(records).row_sums
    torch.testing.assert_close(sums, torch.full((1, 5), 16.0, dtype=torch.float64))


def test_pooling_is_a_mean_of_rows():
    found = relevance([record(m, i) for i, m in enumerate(random_layers())])
    even = torch.full((5,), 0.2, dtype=torch.float64)
    torch.testing.assert_close(found.of(even), found.matrix.mean(1))
    assert torch.equal(found.of(-1), found.matrix[:, -1])


def test_two_streams_with_weights_are_one_chain():
    """Blocks of one product on the tokens of both, against the product itself."""
    generator = torch.Generator().manual_seed(4)
    own = torch.randn(1, 3, 3, generator=generator, dtype=torch.float64).softmax(-1)
    cross = torch.randn(1, 3, 4, generator=generator, dtype=torch.float64).softmax(-1)
    back = torch.randn(1, 4, 3, generator=generator, dtype=torch.float64).softmax(-1)
    records = [record(own), record(cross, 0, "cross"), record(back, 1, "cross")]
    streams = {"text": 3, "image": 4}

    def lazy(place, flow):
        step = torch.eye(7, dtype=torch.float64)
        rows, columns = place
        step[rows] *= 0.4
        step[rows, columns] += 0.6 * flow
        return step

    t, i = slice(0, 3), slice(3, 7)
    first, second, third = (
        lazy((t, t), own[0]),
        lazy((t, i), cross[0]),
        lazy((i, t), back[0]),
    )
    found = cross_relevance(records, streams, weights=0.4)
    torch.testing.assert_close(found.matrix[0], third @ second @ first)
    both = second + third - torch.eye(7, dtype=torch.float64)
    together = cross_relevance(records, streams, weights=0.4, simultaneous=True)
    torch.testing.assert_close(together.matrix[0], both @ first)
    assert not torch.allclose(together.matrix, found.matrix)
    torch.testing.assert_close(found.between("text", "image"), found.matrix[:, t, i])


def test_pairs_are_paired_once():
    """A third look in a row is at what both became, not at what they were."""
    cross, back = torch.full((1, 2, 3), 1 / 3), torch.full((1, 3, 2), 0.5)
    looks = [record(m, 0, "cross") for m in (cross, back, cross)]
    streams = {"a": 2, "b": 3}
    once = cross_relevance(looks[:2], streams, weights=0.5, simultaneous=True).matrix[0]
    step = torch.eye(5)
    step[:2] *= 0.5
    step[:2, 2:] += 0.5 / 3
    found = cross_relevance(looks, streams, weights=0.5, simultaneous=True).matrix[0]
    torch.testing.assert_close(found, step @ once)


class Planted(torch.nn.Module):
    """Attention alone, even, over values whose weights in the output are planted."""

    def __init__(self, planted):
        super().__init__()
        self.planted = torch.nn.Parameter(planted)

    def forward(self, keep):
        n = len(keep)
        values = torch.diag(self.planted * keep)[None, None]
        even = torch.zeros(1, 1, n, 1, dtype=values.dtype)
        return torch.nn.functional.scaled_dot_product_attention(even, even, values)


def test_planted_weights_are_found_in_order():
    planted = torch.tensor([0.3, 2.0, 0.1, 1.1, 0.7], dtype=torch.float64)
    model, keep = Planted(planted), torch.ones(5, dtype=torch.float64)
    with capture(model, gradients=True) as attention:
        score = model(keep)[0, 0, 0].sum()
    found = relevance(attention, gradient=score).of(0)[0]
    found[0] -= 1  # the token's own, by the skip connection
    torch.testing.assert_close(found, planted / 5)
    areas = {}
    for name, order in {
        "most relevant first": found.argsort(descending=True),
        "least relevant first": found.argsort(),
        "as they come": torch.arange(5),
    }.items():
        left = []
        for count in range(6):
            mask = keep.clone()
            mask[order[:count]] = 0
            left.append(float(model(mask)[0, 0, 0].sum().detach()))
        areas[name] = np.trapezoid(left)
    assert (
        areas["most relevant first"]
        < areas["as they come"]
        < areas["least relevant first"]
    )


def test_against_the_models_own_eager_attention():
    importable_torchvision()
    running = vision.dinov2()
    pixels = running.kwargs["pixel_values"]
    running.model.set_attn_implementation("eager")
    output = running.model(pixels, output_attentions=True)
    slopes = torch.autograd.grad(output.pooler_output[:, 0].sum(), output.attentions)
    expected = torch.eye(slopes[0].shape[-1]).expand(len(pixels), -1, -1)
    for matrix, slope in zip(output.attentions, slopes, strict=True):
        flow = (matrix * slope).clamp_min(0).mean(1)
        expected = expected + flow @ expected
    with capture(running.model, gradients=True) as attention:
        score = running.model(pixels).pooler_output[:, 0].sum()
    found = relevance(attention, gradient=score)
    torch.testing.assert_close(found.matrix, expected, atol=1e-5, rtol=1e-4)
    assert float(found.row_sums.detach().max()) > 1.001


def test_shares_of_a_residual_stream():
    importable_torchvision()
    running = vision.dinov2()
    patterns = {"stream": "encoder.layer.*", "branch": "*.layer_scale1"}
    entered, added = [], []
    hooks = []
    for layer in running.model.encoder.layer:
        hooks += [
            layer.norm1.register_forward_pre_hook(lambda _, a: entered.append(a[0])),
            layer.attention.register_forward_hook(
                lambda _, __, out: added.append(
                    out[0] if isinstance(out, tuple) else out
                )
            ),
        ]
    with capture(running.model) as attention, residual_shares(
        running.model, **patterns
    ) as shares:  # fmt: skip
        running.run()
    for hook in hooks:
        hook.remove()
    scales = [layer.layer_scale1.lambda1 for layer in running.model.encoder.layer]
    assert len(shares) == len(attention) == len(entered) == 2
    for share, x, y, scale in zip(shares, entered, added, scales, strict=True):
        after = (y * scale).norm(dim=-1)
        torch.testing.assert_close(share, x.norm(dim=-1) / (x.norm(dim=-1) + after))
    found = relevance(attention, weights=shares)
    torch.testing.assert_close(found.row_sums, torch.ones_like(found.row_sums))
    assert not running.model.encoder.layer[0]._forward_pre_hooks


def test_whispers_two_streams():
    running = text.whisper()
    patterns = {"stream": "*attn_layer_norm", "branch": "*_attn"}
    with capture(running.model, gradients=True) as attention, residual_shares(
        running.model, **patterns
    ) as shares:  # fmt: skip
        score = running.model(**running.kwargs).last_hidden_state[:, -1, 0].sum()
    streams = {"text": 7, "sound": 20}
    chain = cross_relevance(
        attention, streams, gradient=score, weights=shares, normalize=True
    )
    torch.testing.assert_close(
        chain.matrix.sum(-1), torch.ones(2, 27), atol=1e-5, rtol=0
    )
    assert float(chain.between("text", "sound")[:, -1].sum(-1).min()) > 0.01
    assert float(chain.between("sound", "text").abs().max()) == 0
    earlier = chain.between("text", "text")[:, 2]
    assert float(earlier[:, 3:].abs().max()) == 0
    with pytest.raises(ShapeError, match="cross_relevance"):
        relevance(attention, gradient=score)


def test_padding_owes_nothing_and_is_owed_nothing():
    running = text.bert()
    with capture(running.model) as attention:
        running.run()
    found = relevance(attention, weights=0.5)
    assert float(found.matrix[1, :-2, -2:].abs().max()) == 0
    start = torch.tensor([[1 / 7] * 7, [1 / 5] * 5 + [0] * 2])
    chain = rollout(attention)
    assert chain.live.sum(-1).tolist() == [7, 5]
    pushed = chain.push(start)
    torch.testing.assert_close(pushed[1], found.of(start)[1], atol=1e-6, rtol=1e-5)


def test_refusals():
    layers = random_layers()
    records = [record(m, i) for i, m in enumerate(layers)]
    with pytest.raises(ArgumentError, match="0 records"):
        relevance([])
    with pytest.raises(ShapeError, match="same tokens"):
        relevance([*records, record(torch.full((1, 3, 3), 1 / 3))])
    with pytest.raises(ArgumentError, match=r"\[0, 1\]"):
        relevance(records, weights=1.5)
    with pytest.raises(ShapeError, match="3 layers"):
        relevance(records, weights=[torch.ones(5)])
    with pytest.raises(ShapeError, match=r"\(5,\)"):
        relevance(records, weights=[torch.ones(4)] * 3)
    with pytest.raises(ArgumentError, match="gradients=True"):
        relevance(records, gradient=torch.ones(1, requires_grad=True).sum())
    other, _ = with_gradient([(m, m, "self") for m in layers])
    with pytest.raises(CaptureError, match="none of"):
        relevance(other, gradient=torch.ones(1, requires_grad=True).sum())
    with pytest.raises(ArgumentError, match="tokens"):
        relevance(records).of(5)
    with pytest.raises(NotStochasticError):
        relevance(records).of(torch.ones(5))
    with pytest.raises(ArgumentError, match="different numbers"):
        cross_relevance(records, {"a": 5, "b": 5})
    with pytest.raises(ShapeError, match="neither"):
        cross_relevance(records, {"a": 4, "b": 6})
    with pytest.raises(ArgumentError, match="source must be 'a' or 'b'"):
        cross_relevance(records, {"a": 5, "b": 6}).between("a", "c")


def test_several_passes_are_refused():
    running = text.bert()
    with capture(running.model) as attention:
        running.run()
        running.run()
    with pytest.raises(ArgumentError, match="2 passes"):
        rollout(attention)
    assert rollout(attention.matching(forwards=0)).shape == (2, 7, 7)


def test_patterns_that_fit_nothing():
    running = text.bert()
    with pytest.raises(SiteNotFoundError, match="blocks"), residual_shares(
        running.model, stream="blocks.*", branch="*"
    ):  # fmt: skip
        pass
    with pytest.raises(ShapeError, match="nothing"), residual_shares(
        running.model, stream="pooler", branch="encoder.layer.*.attention"
    ):  # fmt: skip
        running.run()
