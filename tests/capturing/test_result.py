"""Choosing among captured records, and the shapes that come back."""

import numpy as np
import pytest
import torch
from tests.capturing.modules import Layers, sequence

from attnchain.capturing import TokenGrid, capture
from attnchain.errors import ArgumentError, GridError, ShapeError, SiteNotFoundError
from attnchain.testing.models import diffusion, text

X = sequence(2, 3, 5, 8)


@pytest.fixture
def attention():
    model = Layers()
    with capture(model) as captured:
        model(X)
    return captured


@pytest.fixture(scope="module")
def unet():
    tiny = diffusion.sd_unet()
    with capture(tiny.model) as captured:
        tiny.run()
    return captured


def test_a_layer_number_gives_one_transition(attention):
    transition = attention.select(layers=2)
    assert transition.batch_shape == (2, 3)
    assert torch.equal(transition.to_dense(), attention[2].transition().to_dense())


def test_a_list_of_layers_gives_a_tuple(attention):
    chosen = attention.select(layers=[2])
    assert isinstance(chosen, tuple)
    assert torch.equal(chosen[0].q, attention[2].q)
    assert len(attention.select(layers=range(1, 3))) == 2
    assert len(attention.select()) == 4


def test_layers_counted_from_the_end(attention):
    assert torch.equal(attention.select(layers=-1).q, attention[3].q)
    assert [r.site.layer for r in attention.matching([-1, 0])] == [0, 3]


@pytest.mark.parametrize(
    ("heads", "batch"), [(None, (2, 3)), (0, (2,)), ([0], (2, 1)), ([2, 0], (2, 2))]
)
def test_heads(attention, heads, batch):
    assert attention.select(layers=0, heads=heads).batch_shape == batch
    assert attention.select(layers=[0], heads=heads)[0].batch_shape == batch


def test_cross_attention_is_left_out_unless_asked_for(unet):
    assert {r.site.kind for r in unet.matching()} == {"self"}
    assert len(unet.matching(kind="cross")) == 7
    assert len(unet.matching(name="mid_block*")) == 2
    with pytest.raises(ShapeError, match="no chain"):
        unet.select(kind="cross")


def test_layers_are_counted_for_each_kind(unet):
    [record] = unet.matching(layers=-1, kind="cross")
    assert record.site.name.endswith("attentions.1.transformer_blocks.0.attn2")
    assert record.site.layer == 6


def test_resolutions(unet):
    assert [r.site.layer for r in unet.matching(resolution=(4, 6))] == [1, 2, 3, 4]


def test_one_grid_for_all_or_an_error(unet):
    tiny = diffusion.dit_transformer()
    with capture(tiny.model) as attention:
        tiny.run()
    assert attention.grid == TokenGrid(4, 4)
    with pytest.raises(GridError, match="2 different token grids"):
        _ = unet.grid


def test_several_records_for_one_layer_number():
    model = Layers(2)
    with capture(model) as attention:
        model(X)
        model(X)
    with pytest.raises(SiteNotFoundError) as caught:
        attention.select(layers=1)
    assert str(caught.value) == (
        "2 records fit layer 1: self layer 1, forward passes 0 and 1. Narrow by "
        "forwards, or ask for layers=[1] to get them all"
    )
    assert len(attention.select(layers=[1])) == 2
    assert torch.equal(attention.select(layers=1, forwards=-1).q, attention[3].q)


def test_joint_and_self_attention_are_told_apart_by_kind():
    tiny = diffusion.sd3_transformer()
    with capture(tiny.model) as attention:
        tiny.run()
    with pytest.raises(SiteNotFoundError, match="Narrow by kind or name"):
        attention.select(layers=0)
    assert attention.select(layers=0, kind="joint").n_states == 29
    assert attention.select(layers=0, kind="self").n_states == 24


@pytest.mark.parametrize(
    "choice",
    [
        {"layers": 4},
        {"layers": -5},
        {"name": "blocks.*"},
        {"kind": "cross"},
        {"steps": 0},
        {"branch": "conditional"},
    ],
    ids=str,
)
def test_what_does_not_exist_is_answered_with_what_does(attention, choice):
    with pytest.raises(SiteNotFoundError) as caught:
        attention.select(**choice)
    [(word, value)] = choice.items()
    known = "layers.0; layers.1; layers.2; layers.3"
    if word != "name":
        known = "self layers 0 to 3"
    expected = f"no captured attention fits {word}={value!r}; there is: {known}"
    assert str(caught.value) == expected


def test_long_lists_are_cut():
    model = Layers(20)
    with capture(model) as attention:
        model(X)
    with pytest.raises(SiteNotFoundError, match=r"layers.11; 8 more$"):
        attention.select(name="blocks.*")


@pytest.mark.parametrize("layers", [1.0, "1", slice(2), [], ["a"], object()], ids=str)
def test_layers_that_are_no_numbers(attention, layers):
    with pytest.raises(ArgumentError, match="layers must be a whole number"):
        attention.select(layers=layers)


def test_numbers_of_numpy_are_numbers(attention):
    last = np.arange(4)[-1]
    assert attention.select(layers=last).batch_shape == (2, 3)
    assert len(attention.select(layers=np.arange(2))) == 2
    assert attention.select(layers=0, heads=np.int64(1)).batch_shape == (2,)


@pytest.mark.parametrize("heads", ["a", slice(2), []], ids=str)
def test_heads_that_are_no_numbers(attention, heads):
    with pytest.raises(ArgumentError, match="has heads 0 to 2"):
        attention.select(layers=0, heads=heads)


def test_an_unknown_keyword_is_answered_with_the_known_ones(attention):
    with pytest.raises(ArgumentError, match="by layer; choose by layers, name, kind"):
        attention.select(layer=0)


def test_records_are_shown_in_one_line(attention):
    assert repr(attention[2]) == (
        "AttentionRecord(self layer 2 (layers.2), shape=(2, 3, 5, 5), float32, cpu)"
    )
    model = Layers(1)
    with capture(model, keep="mean", grid=TokenGrid(1, 5)) as mean:
        model(X)
    assert "shape=(2, 1, 5, 5), 1 x 5 patches" in repr(mean[0])


def test_it_is_a_sequence_of_records(attention):
    assert len(attention) == 4
    assert tuple(attention) == attention.records
    assert attention[1] is attention.records[1]
    assert repr(attention) == "CapturedAttention(self layers 0 to 3)"


def test_an_empty_result():
    model = Layers()
    with capture(model) as attention:
        assert repr(attention) == "CapturedAttention(empty)"
        with pytest.raises(SiteNotFoundError, match="there is: nothing"):
            attention.select()
        model(X)


@pytest.mark.parametrize("name", ["records", "n_layers", "n_steps", "n_forwards"])
def test_nothing_can_be_written_to_it(attention, name):
    with pytest.raises(AttributeError):
        setattr(attention, name, None)
    attention.n_layers.clear()
    assert attention.n_layers == {"self": 4}


def test_causal_attention_says_so():
    tiny = text.llama()
    with capture(tiny.model) as attention:
        tiny.run()
    assert attention[0].causal
    assert attention.select(layers=0).causal
