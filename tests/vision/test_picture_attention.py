"""Reading a picture: chains against the model's own attention weights."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tests.vision import tiny

from attnchain import reference
from attnchain.errors import (
    ArgumentError,
    GridError,
    ImageError,
    SiteNotFoundError,
    UnsupportedModelError,
)
from attnchain.testing.asserts import assert_stochastic
from attnchain.testing.models import vision
from attnchain.vision import read_attention

SHAPES = {"wide": (64, 40), "tall": (40, 64), "square": (64, 64), "strip": (80, 8)}


def own_attention(model, picture, size):
    """The model's eager attention, `(layers, heads, n, n)`."""
    eager = copy.deepcopy(model.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        out = eager(model.pixels(picture, size=size), output_attentions=True)
    return torch.cat(out.attentions)


def renormalised(weights):
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_heads_are_the_models_own_attention_among_patches(model, shape):
    picture = tiny.picture(*shape)
    attention = read_attention(picture, model, size=80)
    own = own_attention(model, picture, 80)
    patches = renormalised(own[..., 1:, 1:])
    rows, columns = attention.grid.rows, attention.grid.columns
    assert (columns * 8, rows * 8) == model.pixels(picture, size=80).shape[:1:-1]
    assert attention.layers == (0, 1)
    for chain, expected in zip(attention.heads, patches, strict=True):
        assert chain.shape == (2, rows * columns, rows * columns)
        torch.testing.assert_close(chain.to_dense(), expected, atol=1e-6, rtol=1e-4)


def test_class_rows_are_the_class_tokens_attention_to_patches(model):
    picture = tiny.picture()
    attention = read_attention(picture, model, size=64)
    expected = renormalised(own_attention(model, picture, 64)[:, :, 0, 1:])
    torch.testing.assert_close(
        torch.stack(attention.class_rows), expected, atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("build", "prefix"),
    [(vision.dinov2_with_registers, 5), (vision.dinov3, 5), (vision.deit, 2)],
    ids=["registers", "dinov3", "deit"],
)
def test_all_special_tokens_are_left_out(build, prefix):
    loaded = tiny.loaded(build(), prefix=prefix)
    picture = tiny.picture(32, 32)
    attention = read_attention(picture, loaded, size=32)
    own = own_attention(loaded, picture, 32)
    chains = torch.stack([chain.to_dense() for chain in attention.heads])
    patches = renormalised(own[..., prefix:, prefix:])
    torch.testing.assert_close(chains, patches, atol=1e-6, rtol=1e-4)
    rows = renormalised(own[:, :, 0, prefix:])
    torch.testing.assert_close(
        torch.stack(attention.class_rows), rows, atol=1e-6, rtol=1e-4
    )


def test_a_model_without_class_token_has_no_class_rows():
    loaded = tiny.loaded(vision.siglip_vision(), prefix=0)
    attention = read_attention(tiny.picture(32, 32), loaded, size=32)
    assert attention.class_rows == ()
    assert attention.heads[0].n_states == 16


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, (0, 1)),
        ((-1,), (1,)),
        ((1, 0), (0, 1)),
        ((0, 0), (0,)),
        ((-2, 1), (0, 1)),
    ],
    ids=str,
)
def test_layers_count_from_either_end(model, layers, expected):
    attention = read_attention(tiny.picture(), model, layers=layers, size=64)
    assert attention.layers == expected
    assert len(attention.heads) == len(attention.class_rows) == len(expected)


def test_one_layer_is_the_same_read_alone(model, attention):
    alone = read_attention(tiny.picture(), model, layers=[1], size=64)
    assert torch.equal(alone.heads[0].to_dense(), attention.heads[1].to_dense())


def test_the_model_is_named_beside_the_result(attention):
    assert attention.model_name == "tiny"
    assert attention.model_note == "Random weights."
    assert attention.size == {"width": 64, "height": 40}


def test_lambda2_of_every_head(attention):
    expected = [
        [
            reference.second_eigenvalue(head)
            for head in layer.to_dense().double().numpy()
        ]
        for layer in attention.heads
    ]
    expected = torch.tensor(np.abs(expected))
    torch.testing.assert_close(attention.lambda2.double(), expected, atol=1e-3, rtol=0)


def test_the_chain_mixes_all_heads_by_lambda2(attention):
    weights = attention.lambda2.double() / attention.lambda2.double().sum()
    dense = torch.stack([layer.to_dense() for layer in attention.heads]).double()
    expected = torch.einsum("lh,lhij->ij", weights, dense)
    assert attention.chain.batch_shape == ()
    assert_stochastic(attention.chain)
    torch.testing.assert_close(
        attention.chain.to_dense().double(), expected, atol=1e-6, rtol=0
    )


def test_the_chain_out_and_back_is_symmetric_and_doubly_stochastic(attention):
    p = attention.chain.to_dense().double()
    expected = p @ torch.diag(1 / p.sum(0)) @ p.T
    found = attention.out_and_back.to_dense().double()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert_stochastic(attention.out_and_back)
    torch.testing.assert_close(found, found.T, atol=1e-7, rtol=0)


def test_no_gradients_are_kept(attention):
    assert not attention.chain.to_dense().requires_grad
    assert not any(row.requires_grad for row in attention.class_rows)


def test_the_picture_and_the_model_are_left_as_they_were(model):
    picture = tiny.picture()
    before = picture.tobytes()
    read_attention(picture, model, size=64)
    assert picture.tobytes() == before
    assert not model.model.training
    assert not any(m._forward_pre_hooks for m in model.model.modules())


def test_transparency_is_laid_on_white(model):
    layer = tiny.picture().convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    paper = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    found = read_attention(layer, model, size=64)
    expected = read_attention(paper.convert("RGB"), model, size=64)
    assert torch.equal(found.heads[1].to_dense(), expected.heads[1].to_dense())


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16"])
def test_other_colour_modes_are_read(model, mode):
    picture = tiny.picture().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    attention = read_attention(picture, model, size=64)
    expected = read_attention(picture.convert("RGB"), model, size=64)
    if mode != "I;16":
        assert torch.equal(attention.class_rows[0], expected.class_rows[0])
    assert_stochastic(attention.chain)


@pytest.mark.parametrize(
    ("shape", "size"), [((64, 40), 8), ((8, 8), 11), ((1, 1), 8)], ids=str
)
def test_one_patch_is_no_chain(model, shape, size):
    with pytest.raises(GridError, match=r"1 patch at size.*at least two"):
        read_attention(tiny.picture(*shape), model, size=size)


@pytest.mark.parametrize("shape", [(40, 1), (1, 40)], ids=str)
def test_a_line_of_patches_is_a_chain(model, shape):
    attention = read_attention(tiny.picture(*shape), model, size=16)
    assert sorted((attention.grid.rows, attention.grid.columns)) == [1, 2]
    assert_stochastic(attention.chain)


@pytest.mark.parametrize("size", [7, 0, -14])
def test_a_size_below_one_patch_is_refused(model, size):
    with pytest.raises(GridError, match="at least one patch, 8 pixels"):
        read_attention(tiny.picture(), model, size=size)


def test_more_patches_than_a_desk_can_hold_are_refused(model):
    with pytest.raises(GridError, match=r"at most 16,384.*up to 1024"):
        read_attention(tiny.picture(), model, size=1032)


def test_an_unknown_layer_is_refused(model):
    with pytest.raises(SiteNotFoundError, match="layers 0 to 1, but 7"):
        read_attention(tiny.picture(), model, layers=[7])


@pytest.mark.parametrize(
    ("argument", "wrong"), [("size", "big"), ("layers", 3), ("layers", ["last"])]
)
def test_what_are_no_numbers_is_refused(model, argument, wrong):
    with pytest.raises(ArgumentError, match=f"{argument} must be"):
        read_attention(tiny.picture(), model, **{argument: wrong})


def test_what_is_no_picture_is_refused(model):
    with pytest.raises(ImageError, match="expected a Pillow picture, got str"):
        read_attention("examples/coffee.png", model)


def test_masked_attention_is_refused():
    with pytest.raises(UnsupportedModelError, match="masks attention"):
        read_attention(tiny.picture(), tiny.torch_only(causal=True), size=64)


def test_the_centre_of_a_patch_lies_in_that_patch(attention):
    for patch in range(attention.grid.n_patches):
        x, y = attention.patch_centre(patch)
        assert attention.grid.patch_at(x, y, **attention.size) == patch
