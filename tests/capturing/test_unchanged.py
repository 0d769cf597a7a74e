"""Capture changes neither gradients nor padded rows."""

import pytest
import torch
from tests.capturing import zoo
from torch import nn

from attnchain.capturing import capture

CHECKPOINTED = ("Qwen2", "Mistral", "Gemma")


def gradients(model, run):
    model.zero_grad()
    run().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", CHECKPOINTED)
def test_gradients_of_an_eager_model_with_checkpoints(family, reentrant):
    """The backward pass runs the blocks again after the capture has ended."""
    options = {"head_dim": 8} if family == "Gemma" else {}
    model = zoo.eager_twin(zoo.decoder(family, use_cache=False, **options)).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    ids = zoo.tokens(2, 7)
    plain = gradients(model, lambda: model(input_ids=ids, labels=ids).loss)

    def inside():
        with capture(model) as attention:
            loss = model(input_ids=ids, labels=ids).loss
        assert [r.site.layer for r in attention] == [0, 1]
        return loss

    for before, after in zip(plain, gradients(model, inside), strict=True):
        torch.testing.assert_close(before, after)


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_of_timm_with_checkpoints(fused):
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=32, num_heads=2
    ).train()
    for block in model.blocks:
        block.attn.fused_attn = fused
    model.set_grad_checkpointing()
    x = zoo.numbers(1, 3, 32, 32)
    plain = gradients(model, lambda: model(x).square().sum())

    def inside():
        with capture(model) as attention:
            loss = model(x).square().sum()
        assert len(attention) == 2
        return loss

    for before, after in zip(plain, gradients(model, inside), strict=True):
        torch.testing.assert_close(before, after)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("mask", ["bool", "float", "hole", "none", "all"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_padded_rows_of_torchs_encoder(mask, norm, grad):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    last = nn.LayerNorm(16, bias=True) if norm else None
    model = nn.TransformerEncoder(layer, 2, norm=last).eval()
    x = zoo.numbers(2, 7, 16)
    lengths = torch.tensor([[6], [2]]) if mask != "all" else torch.tensor([[7], [7]])
    padding = torch.arange(7) >= lengths
    if mask == "hole":
        padding[1] = torch.tensor([1, 0, 0, 1, 0, 0, 0]).bool()
    options = {"src_key_padding_mask": None if mask == "none" else padding}
    if mask == "float":
        options["src_key_padding_mask"] = torch.zeros(2, 7).masked_fill(
            padding, -torch.inf
        )
    with torch.set_grad_enabled(grad):
        plain = model(x, **options)
        with capture(model):
            inside = model(x, **options)
        torch.testing.assert_close(inside, plain, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(x, **options), plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("batch_first", [True, False])
def test_padded_rows_of_other_layers(batch_first):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first).eval()
    x = zoo.numbers(2, 7, 16)
    padding = torch.arange(7) > torch.tensor([[6], [2]])
    x = x if batch_first else x.transpose(0, 1)
    with torch.no_grad():
        plain = layer(x, src_key_padding_mask=padding)
        with capture(layer):
            inside = layer(x, src_key_padding_mask=padding)
    torch.testing.assert_close(inside, plain, atol=1e-5, rtol=1e-5)
