"""Every way to call fused attention is read as torch computes it."""

import pytest
import torch
from tests.capturing.modules import Attending, CrossAttending, sequence
from torch import nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

from attnchain.capturing import capture
from attnchain.errors import (
    ArgumentError,
    CaptureBudgetError,
    ShapeError,
    UnsupportedModelError,
)

Q, K = sequence(2, 4, 6, 8, seed=1), sequence(2, 4, 6, 8, seed=2)
PAIRS = sequence(2, 2, 6, 8, seed=3)
ALLOWED = torch.ones(2, 1, 6, 6).tril().bool()
BIAS = sequence(1, 4, 6, 6, seed=4)
IDENTITY = torch.eye(6).expand(2, 4, 6, 6)

FORMS = {
    "positional": ((Q, K), {}),
    "keywords": ((), {"query": Q, "key": K}),
    "boolean mask": ((Q, K), {"attn_mask": ALLOWED}),
    "mask of two axes": ((Q, K), {"attn_mask": ALLOWED[0, 0]}),
    "additive mask": ((Q, K), {"attn_mask": BIAS}),
    "mask of keys": ((Q, K), {"attn_mask": ALLOWED[:, :, 3:4]}),
    "expanded mask": ((Q, K), {"attn_mask": BIAS.expand(2, -1, -1, -1)}),
    "positional mask": ((Q, K), {"position": (ALLOWED,)}),
    "causal": ((Q, K), {"is_causal": True}),
    "positional causal": ((Q, K), {"position": (None, 0.0, True)}),
    "scale": ((Q, K), {"scale": 0.05}),
    "dropout": ((Q, K), {"dropout_p": 0.5}),
    "grouped queries": ((Q, PAIRS), {"enable_gqa": True}),
    "grouped, masked": ((Q, PAIRS), {"enable_gqa": True, "attn_mask": BIAS}),
    "one key head": ((Q, PAIRS[:, :1]), {"enable_gqa": True, "is_causal": True}),
    "shared keys": ((Q, K[:1]), {}),
    "shared queries": ((Q[:1], K), {}),
    "one query head": ((Q[:, :1].expand(2, 1, 6, 8), K), {}),
    "keys without a batch axis": ((Q, K[0]), {}),
    "causal bias": ((Q, K), {"attn_mask": causal_upper_left(6, 6)}),
}


def attended(args, kwargs):
    """Runs and captures one call, the identity standing in for the values.

    With identity values torch's output is its own attention matrix.
    """
    model = Attending()
    kwargs = dict(kwargs)
    extra = kwargs.pop("position", ())
    keys = kwargs.get("key", args[1] if args else None)
    values = torch.eye(keys.shape[-2], dtype=keys.dtype).expand(*keys.shape[:-1], -1)
    if args:
        args = (*args, values, *extra)
    else:
        kwargs["value"] = values
    with capture(model) as attention:
        model(*args, **kwargs)
    [record] = attention
    kwargs["dropout_p"] = 0.0
    if len(extra) > 1:
        kwargs.pop("dropout_p")
    expected = functional.scaled_dot_product_attention(*args, **kwargs)
    return record, expected


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_call(form):
    record, expected = attended(*FORMS[form])
    assert record.shape == (2, 4, 6, 6)
    torch.testing.assert_close(record.probabilities(), expected, atol=1e-6, rtol=0)
    dense = record.transition().to_dense()
    live = expected * record.live[:, None, :, None]  # padding has no rows
    torch.testing.assert_close(dense, live, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_heads_chosen_by_number_drop_their_axis(form):
    record, expected = attended(*FORMS[form])
    expected = expected * record.live[:, None, :, None]
    one, two = record.transition(heads=3), record.transition(heads=[2, 0])
    assert (one.batch_shape, two.batch_shape) == ((2,), (2, 2))
    torch.testing.assert_close(one.to_dense(), expected[:, 3], atol=1e-6, rtol=0)
    torch.testing.assert_close(two.to_dense(), expected[:, [2, 0]], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ((6, 8), ()),
        ((3, 6, 8), ()),
        ((3, 6, 8), (3, 6, 6)),
        ((2, 3, 4, 6, 8), ()),
        ((2, 3, 4, 6, 8), (3, 1, 6, 6)),
    ],
    ids=str,
)
def test_any_number_of_batch_axes(shape, mask):
    q, k = sequence(*shape, seed=1), sequence(*shape, seed=2)
    options = {"attn_mask": sequence(*mask, seed=3)} if mask else {}
    record, expected = attended((q, k), options)
    got = record.probabilities().reshape(expected.shape)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_any_precision(dtype):
    record, _ = attended((Q.to(dtype), K.to(dtype)), {})
    assert record.q.dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    q, k = Q.to(dtype).to(wide), K.to(dtype).to(wide)
    expected = (q @ k.mT * 8**-0.5).softmax(-1)
    torch.testing.assert_close(record.probabilities(), expected)
    torch.testing.assert_close(record.transition().to_dense(), expected)


@pytest.mark.parametrize("bias", [causal_upper_left, causal_lower_right])
def test_a_causal_bias_is_a_mask_that_holds_no_numbers(bias):
    record, expected = attended((Q[:, :, :4], K), {"attn_mask": bias(4, 6)})
    torch.testing.assert_close(record.probabilities(), expected, atol=1e-6, rtol=0)


def test_a_row_that_may_see_no_key_is_zero_as_in_torch():
    mask = torch.ones(6, 6).bool()
    mask[2] = False
    record, expected = attended((Q, K), {"attn_mask": mask})
    assert not expected[:, :, 2].any()
    torch.testing.assert_close(record.probabilities(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("keep", ["qk", "dense", "mean"])
def test_autocast_does_not_round_what_is_kept(keep):
    model = Attending()
    with capture(model, keep=keep) as attention, torch.autocast("cpu"):
        model(Q, K, K)
        inside = attention[0].probabilities()
    expected = (Q @ K.mT * 8**-0.5).softmax(-1)
    if keep == "mean":
        expected = expected.mean(1, keepdim=True)
    torch.testing.assert_close(inside, expected, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused():
    pieces = [sequence(n, 4, 8) for n in (3, 5)]
    nested = torch.nested.nested_tensor(pieces, layout=torch.jagged).transpose(1, 2)
    model = Attending()
    with (
        pytest.raises(UnsupportedModelError, match="padded batch"),
        capture(model),
    ):
        model(nested, nested, nested)


def test_a_mask_expanded_over_heads_is_kept_once():
    record, _ = attended(*FORMS["expanded mask"])
    assert record.mask.shape == (1, 4, 6, 6)


def test_layers_share_one_copy_of_a_mask():
    model = nn.ModuleList([Attending(), Attending()])
    model.forward = lambda: [layer(Q, K, K, attn_mask=BIAS) for layer in model]
    with capture(model) as attention:
        model()
    assert attention[0].mask is attention[1].mask
    assert attention.nbytes == 4 * Q.nbytes + BIAS.nbytes
    assert attention[0].mask.data_ptr() != BIAS.data_ptr()


def test_masks_count_in_the_budget():
    model, need = Attending(), 2 * Q.nbytes + BIAS.nbytes
    with capture(model, max_bytes=need) as attention:
        model(Q, K, K, attn_mask=BIAS)
    assert attention.nbytes == need
    with pytest.raises(CaptureBudgetError), capture(model, max_bytes=need - 1):
        model(Q, K, K, attn_mask=BIAS)


def test_a_mask_changed_in_place_is_copied_again():
    model = nn.ModuleList([Attending(), Attending()])
    mask = BIAS.clone()

    def forward():
        model[0](Q, K, K, attn_mask=mask)
        mask.add_(1.0)
        model[1](Q, K, K, attn_mask=mask)

    model.forward = forward
    with capture(model) as attention:
        model()
    torch.testing.assert_close(attention[0].mask + 1, attention[1].mask)


def test_records_share_no_memory_with_the_model():
    q, k = Q.clone(), K.clone()
    model = Attending()
    with capture(model) as attention:
        model(q, k, k)
    before = attention[0].probabilities()
    q.zero_()
    k.zero_()
    assert torch.equal(attention[0].probabilities(), before)


def test_a_view_does_not_keep_the_whole_projection():
    qkv = sequence(2, 6, 3, 4, 8)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    model = Attending()
    with capture(model) as attention:
        model(q, k, v)
    assert attention[0].q.untyped_storage().nbytes() == attention[0].q.nbytes


def test_gradients_are_neither_stopped_nor_recorded():
    q = Q.clone().requires_grad_()
    model = Attending()
    with capture(model) as attention:
        model(q, K, K).sum().backward()
    assert q.grad is not None
    assert not attention[0].q.requires_grad


def test_inference_mode():
    model = Attending()
    with torch.inference_mode(), capture(model) as attention:
        for _ in range(2):
            model(Q, K, K, attn_mask=BIAS + 0)
    assert [r.probabilities().shape for r in attention] == [(2, 4, 6, 6)] * 2


def test_cross_attention_is_no_chain_but_has_probabilities():
    record, expected = attended((Q, sequence(2, 4, 9, 8)), {})
    assert record.site.kind == "cross"
    torch.testing.assert_close(record.probabilities(), expected, atol=1e-6, rtol=0)
    with pytest.raises(ShapeError, match="6 queries and 9 keys"):
        record.transition()


def test_cross_attention_between_sequences_of_one_length():
    model = CrossAttending()
    with capture(model) as attention:
        model(Q, K)
    assert attention[0].site.kind == "cross"
    with pytest.raises(ShapeError, match="no chain"):
        attention[0].transition()


@pytest.mark.parametrize("heads", [4, -5, [0, 7]])
def test_a_head_that_is_not_there(heads):
    record, _ = attended((Q, K), {})
    for read in (record.transition, record.probabilities):
        with pytest.raises(ArgumentError, match="heads 0 to 3"):
            read(heads)


class TestMultiHeadAttention:
    """torch's own module, asked for its weights or not."""

    X = sequence(2, 6, 16)
    MASKS = (
        {},
        {"key_padding_mask": torch.arange(6).expand(2, 6) > 3},
        {"attn_mask": torch.ones(6, 6).triu(1).bool()},
        {"attn_mask": sequence(6, 6, seed=5)},
        {"attn_mask": sequence(4, 6, 6, seed=6)},
    )

    @pytest.mark.parametrize("need_weights", [True, False])
    @pytest.mark.parametrize("masks", MASKS, ids=lambda m: " ".join(m) or "plain")
    def test_its_weights_are_captured(self, masks, need_weights):
        model = nn.MultiheadAttention(16, 2, batch_first=True).eval()
        nn.init.normal_(model.in_proj_weight)
        _, weights = model(self.X, self.X, self.X, average_attn_weights=False, **masks)
        with capture(model) as attention:
            model(self.X, self.X, self.X, need_weights=need_weights, **masks)
        [record] = attention
        assert record.site.kind == "self"
        torch.testing.assert_close(record.probabilities(), weights)
        live = weights * record.live[:, None, :, None]
        torch.testing.assert_close(record.transition().to_dense(), live)

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_outputs_do_not_change(self, need_weights):
        model = nn.MultiheadAttention(16, 2, batch_first=True)
        plain = model(self.X, self.X, self.X, need_weights=need_weights)
        with capture(model):
            watched = model(self.X, self.X, self.X, need_weights=need_weights)
        assert torch.equal(plain[0], watched[0])
        if need_weights:
            assert torch.equal(plain[1], watched[1])

    def test_one_sequence_without_a_batch_axis(self):
        model = nn.MultiheadAttention(16, 2).eval()
        x = self.X[0]
        _, weights = model(x, x, x, average_attn_weights=False)
        with capture(model) as attention:
            model(x, x, x, need_weights=False)
        torch.testing.assert_close(attention[0].probabilities()[0], weights)

    def test_another_sequence_of_the_same_length(self):
        model = nn.MultiheadAttention(16, 2, batch_first=True)
        with capture(model) as attention:
            model(self.X, self.X + 1, self.X + 1)
        assert attention[0].site.kind == "cross"

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_the_same_sequence_computed_twice_is_self_attention(self, need_weights):
        model = nn.MultiheadAttention(16, 2, batch_first=True)
        with capture(model) as attention:
            model(self.X, self.X + 0, self.X, need_weights=need_weights)
        assert attention.select(layers=0).batch_shape == (2, 2)

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_one_capture_inside_another(self, need_weights):
        model = nn.Sequential(nn.MultiheadAttention(16, 2, batch_first=True))
        with capture(model) as outer, capture(model[0]) as inner:
            model.forward = lambda x: model[0](x, x, x, need_weights=need_weights)
            model(self.X)
        assert (len(outer), len(inner)) == (1, 1)
        assert torch.equal(outer[0].probabilities(), inner[0].probabilities())

    def test_the_function_called_with_keywords(self):
        class Calling(nn.Module):
            def __init__(self):
                super().__init__()
                self.weights = nn.MultiheadAttention(16, 2)

            def forward(self, x):
                return functional.multi_head_attention_forward(
                    query=x,
                    key=x,
                    value=x,
                    embed_dim_to_check=16,
                    num_heads=2,
                    in_proj_weight=self.weights.in_proj_weight,
                    in_proj_bias=self.weights.in_proj_bias,
                    bias_k=None,
                    bias_v=None,
                    add_zero_attn=False,
                    dropout_p=0.0,
                    out_proj_weight=self.weights.out_proj.weight,
                    out_proj_bias=self.weights.out_proj.bias,
                )

        model = Calling()
        with capture(model) as attention:
            _, weights = model(self.X.mT.reshape(6, 2, 16))
        mean = attention[0].probabilities().mean(1)
        torch.testing.assert_close(mean, weights)

    def test_the_fast_path_is_restored(self):
        layer = nn.TransformerEncoderLayer(16, 2, batch_first=True).eval()
        with torch.no_grad():
            plain = layer(self.X)
            with capture(layer):
                assert not torch.backends.mha.get_fastpath_enabled()
                watched = layer(self.X)
            assert torch.backends.mha.get_fastpath_enabled()
            assert torch.equal(layer(self.X), plain)
        torch.testing.assert_close(watched, plain)
