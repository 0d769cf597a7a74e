"""Gradients of a score with respect to attention, against each model's own matrices."""

import pytest
import torch
from tests.capturing.zoo import eager_twin
from torch import nn
from torch.nn import functional

from attnchain.capturing import attention_gradients, capture
from attnchain.errors import ArgumentError, CaptureError, UnsupportedModelError
from attnchain.testing.models import importable_torchvision, pipelines, text, vision


def score_of(output, seed=3):
    """A score that depends on every entry of the last hidden states."""
    generator = torch.Generator().manual_seed(seed)
    last = output.last_hidden_state
    return (last * torch.randn(last.shape, generator=generator)).sum()


def eager_gradients(model, kwargs):
    output = eager_twin(model)(**kwargs, output_attentions=True)
    matrices = output.get("attentions") or [
        *output.encoder_attentions,
        *(
            matrix
            for pair in zip(
                output.decoder_attentions, output.cross_attentions, strict=True
            )
            for matrix in pair
        ),
    ]
    return torch.autograd.grad(score_of(output), matrices)


@pytest.mark.parametrize(
    "build",
    [text.bert, text.llama, text.llama_padded, text.whisper, vision.dinov2, vision.vit],
)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_equal_to_the_models_own(build, implementation):
    importable_torchvision()
    running = build()
    kwargs = dict(running.kwargs) | (
        {"pixel_values": running.args[0]} if running.args else {}
    )
    expected = eager_gradients(running.model, kwargs)
    running.model.set_attn_implementation(implementation)
    with capture(running.model, gradients=True) as attention:
        score = score_of(running.model(**kwargs))
    found = list(attention_gradients(attention.records, score))
    assert len(found) == len(expected)
    for record, mine, own in zip(attention, found, expected, strict=True):
        assert mine.shape == record.shape
        assert float(own.abs().max()) > 0
        seen = record.probabilities() > 0
        bound = 2e-5 * float(own.abs().max())
        torch.testing.assert_close(mine[seen], own[seen], atol=bound, rtol=1e-4)


class ByHand(nn.Module):
    """Attention with a softmax of its own, twice its rows' number of values wide."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.float64))
        self.kept = []

    def forward(self, x):
        matrix = torch.softmax(x @ self.weight @ x.mT, -1)
        self.kept.append(matrix)
        return torch.matmul(matrix, x).tanh()


def test_a_softmax_by_hand():
    model = ByHand()
    x = torch.randn(2, 1, 5, 4, dtype=torch.float64)
    with capture(model, gradients=True) as attention:
        score = (model(x) * torch.arange(4)).sum()
    [found] = attention_gradients(attention.records, score)
    [expected] = torch.autograd.grad(score, model.kept)
    assert torch.equal(found, expected)


def test_a_closed_form():
    """Of sum(O w) the gradient is (V w), the same in every row."""
    q, k, v = torch.randn(3, 1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    class Fused(nn.Module):
        def forward(self, q, k, v):
            return functional.scaled_dot_product_attention(q, k, v)

    model = Fused()
    with capture(model, gradients=True) as attention:
        score = (model(q, k, v) @ weight).sum()
    [found] = attention_gradients(attention.records, score)
    expected = (v @ weight)[:, :, None, :].expand(1, 2, 4, 4)
    torch.testing.assert_close(found, expected)


def test_it_may_be_asked_again_and_layers_without_influence_are_zero():
    running = text.bert()
    with capture(running.model, gradients=True) as attention:
        output = running.model(**running.kwargs, output_hidden_states=True)
    early = output.hidden_states[1].square().sum()
    first = [list(attention_gradients(attention.records, early)) for _ in range(2)]
    assert torch.equal(first[0][0], first[1][0])
    assert float(first[0][0].abs().max()) > 0
    assert float(first[0][1].abs().max()) == 0


def test_layers_chosen_from_the_end_keep_their_own_gradient():
    running = text.bert()
    with capture(running.model, gradients=True) as attention:
        score = score_of(running.model(**running.kwargs))
    with capture(running.model, gradients=True, layers=-1) as last:
        again = score_of(running.model(**running.kwargs))
    _, expected = attention_gradients(attention.records, score)
    [found] = attention_gradients(last.records, again)
    torch.testing.assert_close(found, expected)


def test_torchs_encoder_and_weights_asked_for():
    running = text.torch_encoder()
    with capture(running.model, gradients=True) as attention:
        score = running.model(*running.args, **running.kwargs).square().sum()
    assert len(list(attention_gradients(attention.records, score))) == 2
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(1, 3, 8)
    with (
        pytest.raises(UnsupportedModelError, match="need_weights=False"),
        capture(layer, gradients=True),
    ):
        layer(x, x, x)


def test_refusals():
    running = text.bert()
    with capture(running.model) as plain:
        score = score_of(running.model(**running.kwargs))
    with pytest.raises(ArgumentError, match="gradients=True"):
        attention_gradients(plain.records, score)
    with capture(running.model, gradients=True) as traced, torch.no_grad():
        blind = score_of(running.model(**running.kwargs))
    with pytest.raises(ArgumentError, match="gradients enabled"):
        attention_gradients(traced.records, blind)
    with pytest.raises(CaptureError, match="depends on none"):
        attention_gradients(traced.records, score)
    with (
        pytest.raises(ArgumentError, match="keep 'qk' or 'dense'"),
        capture(running.model, gradients=True, keep="mean"),
    ):
        pass
    with (
        pytest.raises(ArgumentError, match="capture its network"),
        capture(pipelines.ddpm(), gradients=True),
    ):
        pass
