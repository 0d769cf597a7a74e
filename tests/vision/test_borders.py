"""One region from a map, and its border walked to that of the picture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from attnchain.errors import (
    ArgumentError,
    ConvergenceError,
    NotStochasticError,
)
from attnchain.maps import component, object_region, otsu_threshold
from attnchain.vision import borders
from attnchain.vision.borders import border_walk, object_mask, other_objects


def coloured(pixels):
    return Image.fromarray(np.asarray(pixels, np.uint8))


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return coloured(rng.integers(0, 256, (height, width, 3)))


def block(height, width, rows, columns):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def n_regions(mask):
    return ndimage.label(mask.numpy())[1]


def distances(mask):
    """Of every pixel to the other side, inside and outside."""
    inner, outer = mask.numpy(), ~mask.numpy()
    return (ndimage.distance_transform_edt(side) for side in (inner, outer))


def dense_walk(mask, picture, reach):
    """The absorption probabilities from a dense matrix, pixel by pixel."""
    colours = np.asarray(picture) / 255
    depth, away = distances(mask)
    band = (depth <= reach) & (away <= reach)
    around = (away > reach) & (away < 10 * reach)
    level = np.asarray(picture).astype(int) * 12 // 256
    share = []
    for region in (mask.numpy(), around):
        counts = np.zeros((12, 12, 12))
        np.add.at(counts, tuple(level[region].T), 1)
        counts = ndimage.gaussian_filter(counts, 0.7) / region.sum()
        share.append(counts[tuple(np.moveaxis(level, -1, 0))] + 1e-5)
    odds = share[0] / (share[0] + share[1])
    pixels = [tuple(p) for p in np.argwhere(np.ones_like(band))]
    pairs = [
        (p, q)
        for p in pixels
        for q in ((p[0] + 1, p[1]), (p[0], p[1] + 1))
        if q in set(pixels) and (band[p] or band[q])
    ]
    gaps = {(p, q): ((colours[p] - colours[q]) ** 2).sum() for p, q in pairs}
    mean = np.mean(list(gaps.values()))
    number = {p: i for i, p in enumerate(pixels)}
    # two more states: caught as object, caught as background
    n = len(pixels)
    weights = np.zeros((n + 2, n + 2))
    for (p, q), gap in gaps.items():
        weight = np.exp(-5 * gap / mean) + 1e-3
        weights[number[p], number[q]] = weights[number[q], number[p]] = weight
    for p in pixels:
        weights[number[p], n:] = 0.01 * odds[p], 0.01 * (1 - odds[p])
    for p in [*(p for p in pixels if not band[p])]:
        weights[number[p]] = 0
        weights[number[p], number[p]] = 1
    weights[n, n] = weights[n + 1, n + 1] = 1
    chain = weights / weights.sum(1, keepdims=True)
    ends = np.append(mask.numpy().ravel() & ~band.ravel(), [True, False])
    walking = np.append(band.ravel(), [False, False])
    free = np.eye(int(walking.sum())) - chain[np.ix_(walking, walking)]
    arrived = chain[np.ix_(walking, ~walking)] @ ends[~walking]
    found = mask.numpy().astype(float)
    found[band] = np.linalg.solve(free, arrived)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_walk_is_an_absorbing_chain(seed):
    picture = noise(13, 15, seed)
    mask = block(13, 15, (3, 10), (4, 12))
    mask[9, 4] = False
    found = border_walk(mask, picture, reach=1.5)
    expected = torch.from_numpy(dense_walk(mask, picture, 1.5)).float()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    reach=st.floats(1, 4),
    ends=st.tuples(st.integers(0, 8), st.integers(9, 20), st.integers(1, 24)),
)
def test_only_the_surroundings_of_the_border_change(seed, reach, ends):
    top, bottom, right = ends
    mask = block(20, 24, (top, bottom), (0, right))
    found = border_walk(mask, noise(20, 24, seed), reach=reach)
    assert float(found.min()) >= -1e-4
    assert float(found.max()) <= 1 + 1e-4
    depth, away = distances(mask)
    kept = torch.from_numpy((depth > reach) | (away > reach))
    assert torch.equal(found[kept], mask.float()[kept])


@pytest.mark.parametrize("shift", [-3, -1, 2, 4])
def test_a_border_beside_an_edge_moves_onto_it(shift):
    pixels = np.full((60, 80, 3), (40, 90, 30))
    pixels[20:45, 30:60] = (200, 60, 40)
    pixels = pixels + np.random.default_rng(0).integers(-8, 9, pixels.shape)
    true = block(60, 80, (20, 45), (30, 60))
    near = block(60, 80, (20 + shift, 45 + shift), (30 - shift, 60 - shift))
    found = border_walk(near, coloured(pixels), reach=7) > 0.5
    assert int((found != true).sum()) <= 8
    assert int((near != true).sum()) >= 100


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(20, 30, dtype=torch.bool),
        torch.zeros(20, 30, dtype=torch.bool),
        block(20, 30, (8, 11), (0, 30)),
        block(20, 30, (1, 20), (1, 30)),
    ],
    ids=["all", "none", "thin", "no background left"],
)
def test_a_mask_without_two_sides_stays(mask):
    found = border_walk(mask, noise(20, 30), reach=4)
    assert torch.equal(found, mask.float())


def test_a_large_picture_is_walked_on_at_a_smaller_size(monkeypatch):
    pixels = np.full((160, 240, 3), (30, 60, 200))
    pixels[40:120, 60:180] = (220, 200, 60)
    near = block(160, 240, (48, 126), (54, 174))
    monkeypatch.setattr(borders, "LONGEST", 80)
    found = border_walk(near, coloured(pixels), reach=15)
    assert found.shape == (160, 240)
    wrong = (found > 0.5) != block(160, 240, (40, 120), (60, 180))
    assert float(wrong.float().mean()) < 0.015


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_colour_modes_are_walked_on(mode):
    picture = noise(30, 40).convert(mode)
    mask = block(30, 40, (8, 20), (10, 30))
    found = border_walk(mask, picture, reach=2)
    assert torch.equal(found, border_walk(mask, picture.convert("RGB"), reach=2))


@pytest.mark.parametrize(("shape", "reach"), [((20, 31), 2.0), ((20, 30), 0.5)])
def test_bad_sizes_are_refused(shape, reach):
    with pytest.raises(ArgumentError, match=r"picture's size \(20, 30\)|at least a"):
        border_walk(torch.ones(shape).bool(), noise(20, 30), reach=reach)


def test_a_backdrop_from_edge_to_edge_gives_way_to_what_stands_out_of_it():
    soft = torch.rand(40, 60, generator=torch.Generator().manual_seed(0)) * 0.1
    soft[10:30] += 0.4
    soft[15:28, 20:35] += 0.5
    assert torch.equal(object_region(soft), block(40, 60, (15, 28), (20, 35)))


def test_a_region_with_nothing_standing_out_stays():
    soft = torch.zeros(40, 60)
    soft[10:30] = 1
    assert torch.equal(object_region(soft), block(40, 60, (10, 30), (0, 60)))
    assert not object_region(torch.zeros(40, 60)).any()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), smooth=st.floats(0.5, 6))
def test_a_region_is_connected_and_above_its_rim(seed, smooth):
    values = np.random.default_rng(seed).random((30, 40))
    soft = ndimage.gaussian_filter(values, smooth)
    soft = torch.from_numpy((soft - soft.min()) / (soft.max() - soft.min()))
    region = object_region(soft)
    assert n_regions(region) == 1
    rim = torch.from_numpy(ndimage.binary_dilation(region.numpy())) & ~region
    assert float(soft[region].min()) > float(soft[rim].max())
    first = component(soft > otsu_threshold(soft), soft)
    assert not region[~first].any() or (first[:, 0].any() and first[:, -1].any())
    if not (first[:, 0].any() and first[:, -1].any()):
        assert torch.equal(region, first)


def test_the_mask_of_an_object_is_one_region_with_the_edges_of_the_picture():
    pixels = np.full((96, 128, 3), (90, 90, 90))
    pixels[30:70, 40:90] = (30, 160, 60)
    soft = torch.zeros(96, 128)
    soft[26:66, 44:94] = 1
    found = object_mask(soft, coloured(pixels), patches=12 * 16)
    assert n_regions(found) == 1
    true = block(96, 128, (30, 70), (40, 90))
    assert float((found & true).sum() / (found | true).sum()) > 0.97
    assert torch.equal(
        object_mask(soft, coloured(pixels), patches=96 * 128), object_region(soft)
    )
    assert not object_mask(torch.zeros(96, 128), coloured(pixels), patches=192).any()


def test_equations_left_unsolved_are_told(monkeypatch):
    monkeypatch.setattr(borders, "_STEPS", 1)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    with pytest.raises(ConvergenceError, match="smaller reach"):
        border_walk(mask, Image.fromarray(pixels), reach=8)


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 1.0])
def test_a_map_that_is_the_same_everywhere_has_no_region(value):
    assert not object_region(torch.full((20, 30), value)).any()


def test_a_map_that_is_no_number_is_refused():
    with pytest.raises(NotStochasticError, match="the map"):
        object_region(torch.full((4, 4), float("nan")))


@pytest.mark.parametrize(
    ("mask", "reach"),
    [
        (torch.zeros(9, 9, dtype=torch.long), 2),
        (torch.zeros(9, 9), 2),
        (torch.zeros(9, 9, dtype=torch.bool), float("inf")),
        (torch.zeros(9, 9, dtype=torch.bool), float("nan")),
        (torch.zeros(9, 9, dtype=torch.bool), "2"),
    ],
)
def test_masks_and_reaches_of_other_kinds_are_refused(mask, reach):
    with pytest.raises(ArgumentError, match=r"reach must|boolean mask"):
        border_walk(mask, noise(9, 9), reach=reach)


def three_squares():
    """A grey picture with three bright squares, and its map; the third is faint."""
    soft = torch.zeros(48, 120)
    pixels = np.full((48, 120, 3), 40, np.uint8)
    for left, side, value in ((8, 24, 1.0), (52, 20, 0.9), (92, 16, 0.7)):
        soft[10 : 10 + side, left : left + side] = value
        pixels[10 : 10 + side, left : left + side] = 230
    return soft, Image.fromarray(pixels)


def test_what_stands_out_beside_the_object_is_found_by_itself():
    soft, picture = three_squares()
    mask = object_mask(soft, picture, patches=90)
    others = other_objects(soft, mask, picture, patches=90)
    truth = [soft.isclose(torch.tensor(value)) for value in (1.0, 0.9, 0.7)]
    for found, expected in zip([mask, *others], truth, strict=True):
        assert torch.equal(found, expected)


def test_a_region_of_little_weight_is_no_object():
    soft, picture = three_squares()
    soft[:, 88:] *= 0
    soft[12:16, 100:104] = 1
    mask = object_mask(soft, picture, patches=90)
    assert len(other_objects(soft, mask, picture, patches=90)) == 1
