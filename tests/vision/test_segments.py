"""What a segmentation promises in each mode, whatever the picture."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scipy import ndimage
from tests.vision import tiny
from tests.vision.promises import assert_keeps_promises

import attnchain.models
from attnchain.capturing import TokenGrid
from attnchain.errors import ArgumentError, GridError, ImageError
from attnchain.operators import AttentionTransition, as_transition
from attnchain.testing.asserts import assert_distribution
from attnchain.testing.models import vision
from attnchain.vision import PictureAttention, segment, segment_sets
from attnchain.vision.borders import object_mask

SHAPES = {
    "wide": (64, 40),
    "tall": (41, 63),
    "square": (64, 64),
    "strip": (200, 8),
    "line": (64, 1),
    "larger_than_seen": (230, 150),
}
MODES = {
    "sets": {},
    "two sets": {"sets": 2},
    "point": {"point": (0, 0)},
    "object": {"foreground": True},
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def picture(request):
    return tiny.picture(*request.param)


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def result(request, picture, model):
    return segment(picture, model=model, size=64, **request.param)


def n_regions(mask):
    return ndimage.label(mask.numpy())[1]


def test_shapes_and_ranges(result, picture):
    height, width = picture.height, picture.width
    grid = result.attention.grid
    assert result.labels.shape == (height, width)
    assert result.labels.dtype == torch.int64
    assert result.maps.shape[1:] == (height, width)
    assert float(result.maps.min()) >= 0
    assert float(result.maps.max()) <= 1 + 1e-6
    assert result.attention.rank.distribution.shape == (grid.n_patches,)
    assert result.labels.min() >= 0
    assert result.labels.max() < len(result.names) == len(result.legend)
    assert len(result.maps) == (len(result.names) if result.kind == "sets" else 1)


def test_a_segmentation_keeps_its_promises(result, tmp_path):
    assert_keeps_promises(result, tmp_path)
    layers = ", ".join(map(str, result.attention.layers))
    assert f"tiny, layers {layers}: Random weights." in result.summary()
    soft = tmp_path / "new" / "it-map.png"
    assert soft.exists() is (result.kind == "object")


def test_bounces_walk_the_chain_from_the_start(attention):
    matrix = attention.chain.to_dense().double()
    walker = torch.zeros(len(matrix), dtype=torch.float64)
    walker[7] = 1
    for bounce in attention.bounces(7, 5).flatten(1):
        walker = walker @ matrix
        assert_distribution(bounce, atol=1e-5)
        torch.testing.assert_close(bounce.double(), walker, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sets", [None, 2, 4, 5])
def test_sets_are_memberships_at_picture_size(model, sets):
    picture = tiny.picture(72, 48, seed=5)
    result = segment(picture, model=model, sets=sets, size=72)
    found = result.sets
    count = found.memberships.shape[1]
    assert count == (sets or count) >= 2
    assert result.maps.shape[0] == count
    torch.testing.assert_close(
        result.maps.sum(0), torch.ones(48, 72), atol=1e-5, rtol=0, check_dtype=False
    )
    assert torch.equal(result.labels, result.maps.argmax(0))
    assert_distribution(found.memberships, atol=1e-6)
    assert_distribution(found.prevalence, atol=1e-6)
    assert len(result.legend) == len(result.names) == count


def test_prevalence_is_the_stationary_mass_of_each_set(model):
    result = segment(tiny.picture(72, 48, seed=5), model=model, sets=4, size=72)
    chain = result.attention.chain.to_dense().double()
    pi = torch.linalg.matrix_power(chain, 2000)[0]
    torch.testing.assert_close(
        result.sets.prevalence, pi @ result.sets.memberships, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("seed", range(4))
def test_sets_are_numbered_by_decreasing_prevalence(model, seed):
    result = segment(tiny.picture(72, 48, seed=seed), model=model, sets=4, size=72)
    assert (result.sets.prevalence.diff() <= 1e-9).all()


def test_retention_is_a_probability(model):
    for sets in (2, 7, 20):
        found = segment(tiny.picture(72, 48), model=model, sets=sets, size=72).sets
        assert torch.isfinite(found.retention).all()
        assert (found.retention >= 0).all()
        assert (found.retention <= 1 + 1e-9).all()


POINTS = [(0, 0), (63.9, 39.9), (63, 0), (0.5, 39), (31.5, 20), (20, 11), (50, 30)]


@pytest.mark.parametrize("bounces", [None, 1, 3])
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_segment_of_a_point_is_one_region_around_it(model, point, bounces):
    result = segment(tiny.picture(), model=model, point=point, bounces=bounces, size=64)
    assert result.kind == "object"
    assert result.labels[int(point[1]), int(point[0])] == 1
    assert n_regions(result.labels == 1) == 1
    assert set(result.labels.unique().tolist()) <= {0, 1}
    assert result.maps.shape[0] == 1
    assert result.start == result.attention.grid.patch_at(*point, width=64, height=40)


def test_points_in_one_patch_start_alike(model):
    left, right = (
        segment(tiny.picture(), model=model, point=p, size=64)
        for p in ((16, 8), (23.9, 15.9))
    )
    assert left.start == right.start
    assert torch.equal(left.maps, right.maps)


def test_the_main_object_is_one_region(model):
    for seed in range(4):
        result = segment(tiny.picture(seed=seed), model=model, foreground=True, size=64)
        assert n_regions(result.labels == 1) == 1
        assert result.labels.unique().tolist() == [0, 1]


def test_the_mask_of_a_point_is_cut_from_its_map_at_one_threshold(model):
    for seed in range(4):
        picture = tiny.picture(seed=seed)
        result = segment(picture, model=model, size=64, **MODES["point"])
        mask, soft = result.labels.numpy() == 1, result.maps[0].numpy()
        rim = ndimage.binary_dilation(mask) & ~mask
        assert soft[rim].max(initial=0) <= soft[mask].min()


def test_the_main_object_is_cut_from_its_map_and_the_picture(model):
    for seed in range(4):
        picture = tiny.picture(seed=seed)
        result = segment(picture, model=model, foreground=True, size=64)
        expected = object_mask(result.maps[0], picture, patches=40)
        assert torch.equal(result.labels == 1, expected)


@pytest.mark.parametrize("mode", ["point", "object"])
def test_bounces_change_the_map(model, mode):
    first, later = (
        segment(tiny.picture(), model=model, bounces=n, size=64, **MODES[mode])
        for n in (1, 3)
    )
    assert not torch.equal(first.maps, later.maps)


def test_the_size_seen_decides_the_patches(model):
    result = segment(tiny.picture(), model=model, size=128)
    assert (result.attention.grid.rows, result.attention.grid.columns) == (10, 16)
    assert result.labels.shape == (40, 64)


def test_a_mirrored_picture_is_still_segmented_in_its_own_shape(model):
    result = segment(tiny.picture(40, 64), model=model, size=64)
    assert result.labels.shape == (64, 40)
    assert (result.attention.grid.rows, result.attention.grid.columns) == (8, 5)


def test_the_main_object_is_looked_for_in_the_last_layer(model):
    result = segment(tiny.picture(), model=model, foreground=True, size=64)
    assert result.attention.layers == (1,)


def test_layers_choose_the_chains(model):
    both, last = (
        segment(tiny.picture(), model=model, layers=layers, size=64)
        for layers in (None, [-1])
    )
    assert both.attention.layers == (0, 1)
    assert last.attention.layers == (1,)
    assert not torch.equal(
        both.attention.rank.distribution, last.attention.rank.distribution
    )


def test_twice_the_same_picture_gives_the_same_segments(model):
    first, again = (segment(tiny.picture(), model=model, size=64) for _ in range(2))
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.maps, again.maps)


def test_the_rank_is_that_of_the_chain(model):
    attention = segment(tiny.picture(), model=model, size=64).attention
    chain, rank = (
        as_transition(attention.chain.to_dense().double()),
        attention.rank.distribution,
    )
    pushed = 0.99 * chain.push(rank) + 0.01 / chain.n_states
    assert float((pushed - rank).abs().sum()) <= 1e-6


def test_results_are_frozen_and_the_picture_is_untouched(model):
    picture = tiny.picture()
    before = picture.tobytes()
    result = segment(picture, model=model, size=64)
    assert picture.tobytes() == before
    with pytest.raises(FrozenInstanceError):
        result.labels = result.maps


def test_the_packaged_model_is_the_default(model, monkeypatch):
    monkeypatch.setattr(attnchain.models, "load", lambda: model)
    assert segment(tiny.picture(), size=64).attention.model_name == "tiny"


def test_a_point_needs_no_class_token():
    loaded = tiny.torch_only()
    result = segment(tiny.picture(), model=loaded, point=(5, 5), layers=[0], size=64)
    assert result.labels[5, 5] == 1


def test_the_main_object_needs_a_class_token():
    loaded = tiny.loaded(vision.siglip_vision(), prefix=0)
    with pytest.raises(GridError, match=r"no class token.*give a point"):
        segment(tiny.picture(32, 32), model=loaded, foreground=True, size=32)


@pytest.mark.parametrize(
    "options",
    [
        {"point": (1, 1), "foreground": True},
        {"point": (1, 1), "sets": 2},
        {"foreground": True, "sets": 2},
    ],
    ids="-".join,
)
def test_modes_exclude_each_other(model, options):
    with pytest.raises(ArgumentError, match="exclude each other"):
        segment(tiny.picture(), model=model, size=64, **options)


@pytest.mark.parametrize("bounces", [0, -1, 1.5])
def test_bounces_are_whole_and_positive(model, bounces):
    with pytest.raises(ArgumentError, match="bounces must be a whole number >= 1"):
        segment(tiny.picture(), model=model, bounces=bounces, size=64)


@pytest.mark.parametrize("size", [0, -5, 7])
def test_a_size_below_one_patch_is_refused(model, size):
    with pytest.raises(GridError, match="at least one patch"):
        segment(tiny.picture(), model=model, size=size)


OUTSIDE = [(64, 0), (0, 40), (-0.1, 5), (float("nan"), 3), (3, float("inf"))]


@pytest.mark.parametrize("point", OUTSIDE, ids=str)
def test_a_point_outside_the_picture_is_refused(model, point):
    with pytest.raises(ImageError, match="outside the picture"):
        segment(tiny.picture(), model=model, point=point, size=64)


@pytest.mark.parametrize("sets", [0, 1, -2, 25, 2.5])
def test_sets_that_cannot_be_told_apart_are_refused(model, sets):
    with pytest.raises(ArgumentError, match=r"sets must lie in 2\.\.24"):
        segment(tiny.picture(), model=model, sets=sets, size=64)


def test_more_sets_than_patches_are_refused(model):
    with pytest.raises(
        ArgumentError,
        match=r"sets must.*2 patches.*is 3",
    ):
        segment(tiny.picture(), model=model, sets=3, size=16)


def test_bounces_of_sets_are_refused(model):
    with pytest.raises(ArgumentError, match="bounces go with a point"):
        segment(tiny.picture(), model=model, bounces=2, size=64)


def test_bounces_after_which_all_is_the_same_are_refused(model):
    with pytest.raises(ArgumentError, match=r"same everywhere.*fewer bounces"):
        segment(tiny.picture(), model=model, bounces=5000, size=64, **MODES["point"])


def test_of_one_pixel_nothing_is_told_apart(model):
    with pytest.raises(ArgumentError, match="no metastable sets"):
        segment(tiny.picture(1, 1), model=model, size=64)
    for options in (MODES["point"], MODES["object"]):
        with pytest.raises(ArgumentError, match="same everywhere"):
            segment(tiny.picture(1, 1), model=model, size=64, **options)


@pytest.mark.parametrize("point", [(1,), "ab", ("a", 2), 5, (1, 2, 3)], ids=str)
def test_what_is_no_point_is_refused(model, point):
    with pytest.raises(ArgumentError, match="point must be two numbers"):
        segment(tiny.picture(), model=model, point=point, size=64)


def test_masks_follow_the_maps_of_a_picture_in_two_halves():
    """Patches of one half have equal queries and keys: all of them act alike."""
    halves = np.zeros((32, 64, 3), np.uint8)
    halves[:, 32:] = 255
    picture = tiny.Image.fromarray(halves)
    loaded = tiny.torch_only()
    result = segment(picture, model=loaded, layers=[0], point=(5, 16), size=64)
    assert result.labels[:, :28].all()
    assert not result.labels[:, 36:].any()


def test_the_number_of_sets_is_that_of_slow_modes():
    """Patches of two, three or four kinds, which look at their own kind."""
    for count in (2, 3, 4):
        kinds = torch.eye(4)[torch.arange(20) * count // 20]
        q = 6 * kinds + 0.05 * torch.randn(20, 4)
        attention = PictureAttention(
            picture=tiny.picture(20, 16),
            grid=TokenGrid(4, 5),
            layers=(0,),
            heads=(AttentionTransition(q[None], q[None], scale=1.0),),
            class_rows=(),
            model_name="made up",
            model_note="",
        )
        assert len(segment_sets(attention).names) == count
