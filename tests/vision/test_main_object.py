"""The main object: its map against dense arithmetic, and what confidence follows."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.vision import tiny

from attnchain.capturing import TokenGrid
from attnchain.maps import enlarge
from attnchain.operators import AttentionTransition
from attnchain.vision import (
    PictureAttention,
    main_object,
    read_attention,
    segment_object,
)
from attnchain.vision.main_object import contrast, feature_cut
from attnchain.vision.states import deepest, watched_states


@pytest.fixture(scope="module")
def last(model):
    """The last layer of a picture of 5 x 8 patches."""
    return read_attention(tiny.picture(), model, layers=(-1,), size=64)


def dense_cut(features):
    """The second eigenvector of the walk by NumPy's symmetric solver, float64."""
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    cosines = unit @ unit.T
    likeness = (cosines - cosines.min()) / (cosines.max() - cosines.min())
    weights = likeness.clamp_min(1e-5) ** 10
    root = weights.sum(1).sqrt()
    _, vectors = torch.linalg.eigh(weights / root[:, None] / root)
    return vectors[:, -2] / root


def standing(values):
    return ((values - values.mean()) / values.std(correction=0) / 2).tanh()


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def test_the_features_are_those_the_last_layer_reads(model, last):
    pixels = model.pixels(tiny.picture(), size=64)
    with torch.no_grad():
        states = model.model(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(last.features, states[1][0, 1:])


def test_what_each_layer_reads_is_watched(model):
    pixels = model.pixels(tiny.picture(), size=64)
    with torch.no_grad(), watched_states(model.model, (0, -1, 1, 2)) as states:
        expected = model.model(pixels, output_hidden_states=True).hidden_states
    assert [len(kept) for kept in states.values()] == [1, 1, 1, 0]
    torch.testing.assert_close(states[0][0], expected[0])
    torch.testing.assert_close(states[1][0], expected[1])
    assert torch.equal(states[-1][0], states[1][0])


@pytest.mark.parametrize(
    ("layers", "last"),
    [(None, 1), ((0, 1), 1), ((-1,), 1), ((0,), 0), ((-2,), 0), ((7,), -1)],
)
def test_the_deepest_of_some_layers(model, layers, last):
    assert deepest(model.model, layers) == last


def test_a_model_without_layers_is_not_watched():
    attention = read_attention(tiny.picture(), tiny.torch_only(), size=64)
    assert attention.features is None


def test_the_map_adds_the_slowest_bounces_and_the_cut_of_the_features(last):
    matrix = last.chain.to_dense().double()
    seen = last.class_rows[-1].mean(0).double()
    bounced = torch.linalg.matrix_power(matrix, 3) @ seen
    cut = dense_cut(last.features)
    cut = cut if correlation(cut, bounced) >= 0 else -cut
    values = last.grid.to_map(standing(bounced) + standing(cut))
    large = enlarge(values, **last.size)
    expected = (large - large.min()) / (large.max() - large.min())
    found = segment_object(last, bounces=3).soft
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)


def test_many_bounces_end_at_the_slowest_function_of_the_chain():
    """Equal queries and keys: a reversible chain, its eigenvalues real and positive."""
    q = torch.randn(1, 20, 4)
    reversible = PictureAttention(
        picture=tiny.picture(20, 16),
        grid=TokenGrid(4, 5),
        layers=(0,),
        heads=(AttentionTransition(q, q),),
        class_rows=(torch.rand(1, 20).softmax(-1),),
        model_name="made up",
        model_note="",
    )
    values, vectors = torch.linalg.eig(reversible.chain.to_dense().double())
    order = values.real.argsort(descending=True)
    slowest = vectors[:, order[1]].real
    found = main_object.look_for_object(reversible, 2000).values.flatten()
    assert abs(correlation(found, standing(slowest))) > 0.999


def test_two_kinds_of_features_are_cut_apart():
    kinds = torch.tensor([[1.0, 0.1], [0.1, 1.0]]).repeat_interleave(6, 0)
    cut = feature_cut(kinds + 0.02 * torch.randn(12, 2))
    assert len(set(cut[:6].sign().tolist())) == 1
    assert (cut[:6].sign() == -cut[6:].sign()).all()


def test_equal_features_cut_nothing():
    assert not feature_cut(torch.ones(6, 3)).any()


@given(gap=st.floats(0.1, 5), scale=st.floats(0.1, 10), shift=st.floats(-3, 3))
def test_contrast_is_the_gap_in_standard_deviations(gap, scale, shift):
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[:2] = True
    ripple = torch.tensor([-1.0, 1.0]).repeat(4, 3)
    values = scale * (ripple + gap * inside) + shift
    assert contrast(values, inside) == pytest.approx(gap, rel=1e-3)


def test_a_clear_object_is_trusted_more_than_noise():
    """One bright square, against values without any order."""
    square = torch.zeros(16, 16)
    square[5:11, 5:11] = 1
    square += 0.02 * torch.randn(16, 16)
    noise = torch.randn(16, 16)
    for judged in (main_object._judged, main_object._probed):
        clear = judged(square, square)
        vague = judged(noise.clamp(0, 1), noise.flip(0).clamp(0, 1))
        assert 0 <= vague.confidence < 0.5 < clear.confidence <= 1
        assert clear.objects == 1


def test_objects_that_stand_apart_are_counted():
    three = torch.zeros(12, 18)
    for left in (1, 7, 13):
        three[3:9, left : left + 4] = 1
    assert main_object._judged(three, three).objects == 3


def test_the_result_says_how_far_to_trust_it(last, tmp_path):
    result = segment_object(last)
    assert 0 <= result.confidence <= 1
    assert result.facts()["confidence"] == result.confidence
    assert f"confidence {result.confidence:.2f}" in result.summary()


def test_all_objects_that_stand_out_are_instances_the_main_one_first(last):
    soft = torch.zeros(40, 64)
    soft[8:32, 4:24], soft[8:32, 36:54] = 1, 0.9
    mask = torch.zeros(40, 64, dtype=torch.bool)
    mask[8:32, 4:24] = True
    result = replace(segment_object(last), soft=soft, labels=mask.long(), objects=2)
    found = result.instances("object")
    assert len(found) == 2
    assert torch.equal(found[0], mask)
    assert not (found[0] & found[1]).any()
    assert found[1][14:26, 40:50].all()
    assert len(replace(result, objects=1).instances("object")) == 1
    assert len(result.instances("rest")) == 1
    assert "instances('object')" in result.summary()
