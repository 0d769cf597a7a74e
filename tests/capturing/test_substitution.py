"""Other attention in a running model: what is replaced, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from attnchain.capturing import replaced_attention
from attnchain.errors import ArgumentError, SiteNotFoundError, UnsupportedModelError
from attnchain.testing.models import text, vision


class Counting:
    """Attention as it is, and how often it was asked for."""

    def __init__(self):
        self.shapes = []

    def __call__(self, query, key, value, *, scale=None):
        self.shapes.append(tuple(query.shape))
        return scaled_dot_product_attention(query, key, value, scale=scale)


def blind(query, key, value, *, scale=None):
    """Every token sees every other equally."""
    return value.mean(-2, keepdim=True).expand_as(value)


@pytest.fixture(params=[vision.dinov2, vision.timm_vit])
def tiny(request):
    pytest.importorskip("transformers")
    pytest.importorskip("timm")
    return request.param()


def output(tiny):
    found = tiny.run()
    return found if isinstance(found, torch.Tensor) else found.last_hidden_state


def test_attention_itself_in_its_place_changes_nothing(tiny):
    before, count = output(tiny), Counting()
    with replaced_attention(tiny.model, count):
        found = output(tiny)
    torch.testing.assert_close(found, before)
    assert len(count.shapes) == 2
    assert torch.equal(output(tiny), before)
    assert len(count.shapes) == 2


def test_only_chosen_layers_are_replaced_in_every_run(tiny):
    count = Counting()
    with replaced_attention(tiny.model, count, layers=[1]):
        output(tiny)
        output(tiny)
    assert len(count.shapes) == 2
    before = output(tiny)
    changed = {}
    for layer in (0, 1):
        with replaced_attention(tiny.model, blind, layers=[layer]):
            changed[layer] = output(tiny)
    assert not torch.allclose(changed[0], before, atol=1e-5)
    assert not torch.allclose(changed[0], changed[1], atol=1e-5)


def test_blind_attention_is_uniform_attention():
    heads = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    x = torch.randn(1, 5, 4)
    with replaced_attention(heads, blind), torch.no_grad():
        found, _ = heads(x, x, x, need_weights=False)
        weights = heads.in_proj_weight[8:], heads.in_proj_bias[8:]
        mean = nn.functional.linear(x, *weights).mean(1, keepdim=True)
        expected = heads.out_proj(mean).expand_as(x)
    torch.testing.assert_close(found, expected)


def test_other_attention_meanwhile_is_left_alone(tiny):
    count = Counting()
    x = torch.randn(1, 1, 3, 2)
    with replaced_attention(tiny.model, count):
        scaled_dot_product_attention(x, x, x)
        output(tiny)
        scaled_dot_product_attention(x, x, x)
    assert len(count.shapes) == 2


def test_arguments_a_function_does_not_take_are_refused():
    tiny = text.raw_attention()
    with (
        pytest.raises(UnsupportedModelError, match="is_causal"),
        replaced_attention(tiny.model, blind),
    ):
        tiny.run()
    before = output(tiny)
    with replaced_attention(tiny.model, scaled_dot_product_attention):
        assert torch.equal(output(tiny), before)


def test_layers_that_are_not_there_are_told(tiny):
    with (
        pytest.raises(SiteNotFoundError, match=r"layers \[7\] .* 2 times"),
        replaced_attention(tiny.model, blind, layers=[0, 7]),
    ):
        output(tiny)


def test_a_model_without_fused_attention_is_told():
    model = nn.Linear(2, 2)
    with (
        pytest.raises(UnsupportedModelError, match="without calling fused"),
        replaced_attention(model, blind),
    ):
        model(torch.ones(2))
    with replaced_attention(model, blind):
        pass


def test_results_of_another_shape_are_refused(tiny):
    with (
        pytest.raises(ArgumentError, match="attend must return a tensor"),
        replaced_attention(tiny.model, lambda q, k, v, scale=None: v[..., :1, :]),
    ):
        output(tiny)
    assert not tiny.model._forward_hooks
