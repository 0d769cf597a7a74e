"""Which query is which patch or word: the input changes in one place, and that query.

Queries of the first layer depend on nothing but their own patch or word.
"""

import pytest
import torch
from tests.capturing import families, zoo
from tests.capturing.cases import TEXTS

from attnchain.capturing import TokenGrid, capture
from attnchain.errors import GridError


def first_queries(model, **given):
    """The record of the first layer."""
    with capture(model, layers=0) as attention, torch.no_grad():
        model(**given)
    return attention[0]


def change(before, after):
    """By how much each query differs: `(pictures or windows, tokens)`."""
    return (before.q - after.q).abs().sum((1, 3))


def changed(before, after):
    """Positions of the queries of the first picture that differ."""
    return change(before, after)[0].nonzero().flatten().tolist()


@pytest.mark.parametrize("case", TEXTS, ids=lambda case: case.family)
def test_each_word_has_its_place(case):
    tiny = case.build()
    before = first_queries(tiny.model, **tiny.kwargs)
    for place in range(5):
        ids = tiny.kwargs["input_ids"].clone()
        ids[0, place] = 50
        after = first_queries(tiny.model, **{**tiny.kwargs, "input_ids": ids})
        assert changed(before, after) == [before.grid.text[place]]


def test_patches_of_beit():
    tiny = families.beit()
    before = first_queries(tiny.model, **tiny.kwargs)
    for top in range(0, 16, 4):
        for left in range(0, 16, 4):
            pixels = tiny.kwargs["pixel_values"].clone()
            pixels[..., top : top + 4, left : left + 4] += 1
            after = first_queries(tiny.model, pixel_values=pixels)
            patch = before.grid.patch_at(left, top, width=16, height=16)
            assert changed(before, after) == [before.grid.positions[patch]]


def test_windows_of_sam_reach_beyond_the_picture():
    tiny = families.sam()
    before = first_queries(tiny.model, **tiny.kwargs)
    for row in range(6):
        for column in range(6):
            pixels = tiny.kwargs["pixel_values"].clone()
            pixels[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
            after = first_queries(tiny.model, pixel_values=pixels)
            whole = before.grid.merge_windows(change(before, after))
            assert whole.shape == (2, 6, 6)
            assert whole[0].nonzero().tolist() == [[row, column]]


def test_patches_of_videomae():
    tiny = families.videomae()
    before = first_queries(tiny.model, **tiny.kwargs)
    for frame in range(6):
        for row, column in ((0, 0), (1, 3), (3, 2)):
            pixels = tiny.kwargs["pixel_values"].clone()
            pixels[:, frame, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
            after = first_queries(tiny.model, pixel_values=pixels)
            volume = before.grid.to_map(change(before, after))[0]
            assert volume.nonzero().tolist() == [[frame // 2, row, column]]


def test_videomae_with_patches_left_out_is_said_to_be_unknown():
    tiny = families.videomae()
    masked = torch.arange(48).expand(2, 48) % 2 == 0
    record = first_queries(tiny.model, **tiny.kwargs, bool_masked_pos=masked)
    with pytest.raises(GridError, match=r"bool_masked_pos.*by hand"):
        _ = record.grid


def test_patches_of_ast_overlap():
    """A number of the spectrogram lies in all patches that reach over it."""
    tiny = families.ast()
    before = first_queries(tiny.model, **tiny.kwargs)
    for band in range(12):
        for time in (0, 4, 11, 18):
            sound = tiny.kwargs["input_values"].clone()
            sound[:, time, band] += 1
            after = first_queries(tiny.model, input_values=sound)
            spread = before.grid.to_map(change(before, after))[0]
            assert spread.nonzero().tolist() == [
                [row, column]
                for row in range(5)
                for column in range(6)
                if 0 <= band - 2 * row < 4 and 0 <= time - 3 * column < 4
            ]


def test_the_decoder_of_sam_looks_from_prompts_to_the_picture():
    sides = {"hidden_size": 32, "num_attention_heads": 4}
    model = zoo.transformers_model(
        "SamModel",
        "SamConfig",
        vision_config={
            **sides,
            "num_hidden_layers": 1,
            "mlp_dim": 48,
            "image_size": 24,
            "patch_size": 4,
            "output_channels": 32,
            "window_size": 0,
            "num_pos_feats": 16,
        },
        mask_decoder_config={**sides, "num_hidden_layers": 1, "mlp_dim": 48},
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 24,
            "patch_size": 4,
            "mask_input_channels": 4,
        },
    )
    given = {"pixel_values": zoo.numbers(1, 3, 24, 24)}
    points = torch.tensor([[[[3.0, 4.0], [9.0, 9.0]]]])
    with capture(model, name="mask_decoder*") as attention, torch.no_grad():
        model(**given, input_points=points)
    picture, prompts = TokenGrid(6, 6), TokenGrid(0, 0, prefix=attention[0].shape[-2])
    for record in attention:
        sizes = {36: picture, prompts.n_tokens: prompts}
        assert record.grid == sizes[record.shape[-2]]
        assert record.key_grid == sizes[record.shape[-1]]
    assert len({record.grid for record in attention}) == 2


def test_both_sides_of_an_encoder_decoder_are_text():
    tiny = families.two_sided(zoo.bart())
    with capture(tiny.model) as attention:
        tiny.run()
    crossed = attention.matching(kind="cross")[0]
    assert crossed.grid == TokenGrid.of_text(5)
    assert crossed.key_grid == TokenGrid.of_text(7)


@pytest.mark.parametrize("build", [zoo.t5, zoo.bart], ids=["T5", "BART"])
def test_a_decoder_that_generates_sees_text(build):
    model = build()
    with capture(model) as attention:
        model.generate(zoo.tokens(1, 7), max_new_tokens=3, min_new_tokens=3)
    crossed = attention.matching(kind="cross")[-1]
    assert crossed.grid == TokenGrid.of_text(1)
    assert crossed.key_grid == TokenGrid.of_text(7)
    decoded = [
        r for r in attention if r.site.kind == "self" and "decoder" in r.site.name
    ]
    assert decoded[-1].key_grid == TokenGrid.of_text(3)


def test_a_decoder_of_text_that_generates():
    tiny = families.qwen3()
    with capture(tiny.model) as attention, torch.no_grad():
        first = tiny.model(zoo.tokens(1, 6), use_cache=True)
        tiny.model(zoo.tokens(1, 1), past_key_values=first.past_key_values)
    assert attention[0].grid == TokenGrid.of_text(6)
    assert attention[-1].grid == TokenGrid.of_text(1)
    assert attention[-1].key_grid == TokenGrid.of_text(7)


def test_keys_made_outside_a_decoder_are_not_taken_for_text():
    """TrOCR's decoder alone: its keys may be a picture."""
    model = zoo.transformers_model(
        "TrOCRForCausalLM",
        "TrOCRConfig",
        vocab_size=60,
        d_model=32,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    with capture(model) as attention, torch.no_grad():
        model(zoo.tokens(1, 5), encoder_hidden_states=zoo.numbers(1, 9, 32))
    assert attention[0].grid == attention[0].key_grid == TokenGrid.of_text(5)
    crossed = attention.matching(kind="cross")[0]
    with pytest.raises(GridError, match=r"outside the model.*by hand"):
        _ = crossed.key_grid


def composite():
    """A ViT that is read by a decoder, and its input: 17 keys, none of them a word."""
    from transformers import (
        BertConfig,
        BertLMHeadModel,
        VisionEncoderDecoderModel,
    )

    sizes = families.TOWER | {"image_size": 16}
    encoder = zoo.transformers_model("ViTModel", "ViTConfig", **sizes)
    options = {"is_decoder": True, "add_cross_attention": True}
    decoder = BertLMHeadModel(BertConfig(**zoo.TEXT, **options))
    model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    pixels, words = zoo.numbers(1, 3, 16, 16), zoo.tokens(1, 17)
    return model, {"pixel_values": pixels, "decoder_input_ids": words}


def test_picture_keys_of_a_composite_are_not_taken_for_text():
    model, given = composite()
    with capture(model) as attention, torch.no_grad():
        model(**given)
    crossed = attention.matching(kind="cross")[0]
    assert attention[0].grid == TokenGrid(4, 4, prefix=1)
    assert crossed.grid == TokenGrid.of_text(17)
    with pytest.raises(GridError, match=r"no text.*by hand"):
        _ = crossed.key_grid


class Wrapped(torch.nn.Module):
    """As training code wraps a model."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **given):
        return self.inner(**given)


def test_a_wrapper_does_not_make_picture_keys_text():
    model, given = composite()
    with capture(wrapper := Wrapped(model)) as attention, torch.no_grad():
        wrapper(**given)
    with pytest.raises(GridError, match=r"no text.*by hand"):
        _ = attention.matching(kind="cross")[0].key_grid


def test_numbers_that_are_no_words_are_not_taken_for_text():
    """ImageGPT is given a picture's colours by number."""
    model = zoo.transformers_model(
        "ImageGPTModel",
        "ImageGPTConfig",
        vocab_size=60,
        n_positions=16,
        n_embd=32,
        n_layer=1,
        n_head=4,
    )
    with capture(model) as attention, torch.no_grad():
        model(zoo.tokens(1, 16))
    with pytest.raises(GridError, match=r"no layout is known.*by hand"):
        _ = attention[0].grid


BACKBONES = {
    "Dinov2Backbone": 1,
    "Dinov2WithRegistersBackbone": 5,
    "DINOv3ViTBackbone": 5,
    "ViTMSNModel": 1,
    "DPTModel": 1,
    "MLCDVisionModel": 1,
    "Data2VecVisionModel": 1,
    "IJepaModel": 0,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_patches_of_backbones(name):
    """Such as Depth Anything has, instead of the models they are made of."""
    config = name.replace("Backbone", "Config").replace("Model", "Config")
    sizes = zoo.PICTURES | {"num_register_tokens": 4}
    model = zoo.transformers_model(name, config, **sizes)
    picture = zoo.numbers(1, 3, 32, 32)
    other = picture.clone()
    other[:, :, 8:16, 16:24] += 1
    before, after = (first_queries(model, pixel_values=x) for x in (picture, other))
    assert before.grid == TokenGrid(4, 4, prefix=BACKBONES[name])
    assert changed(before, after) == [before.grid.positions[4 + 2]]


def test_patches_of_a_picture_of_its_own_size():
    """SigLIP 2 takes patches of any rows and columns, padded to one length."""
    sizes = zoo.PICTURES | {"num_patches": 16}
    model = zoo.transformers_model("Siglip2VisionModel", "Siglip2VisionConfig", **sizes)
    patches = zoo.numbers(2, 16, 192)
    other = patches.clone()
    other[:, 3 + 2] += 1
    shapes, mask = torch.tensor([[4, 3], [4, 3]]), torch.ones(2, 16, dtype=torch.long)
    mask[:, 12:] = 0
    given = {"pixel_attention_mask": mask, "spatial_shapes": shapes}
    before, after = (
        first_queries(model, pixel_values=x, **given) for x in (patches, other)
    )
    assert before.grid == TokenGrid(4, 3, suffix=4)
    assert torch.equal(before.live, mask.bool())
    assert changed(before, after) == [before.grid.positions[3 + 2]]
    mixed = given | {"spatial_shapes": torch.tensor([[4, 3], [2, 6]])}
    with pytest.raises(GridError, match="different sizes"):
        assert first_queries(model, pixel_values=patches, **mixed).grid
