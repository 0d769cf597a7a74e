"""From patch values to picture size, against scikit-image and SciPy."""

import numpy as np
import pytest
import torch

from attnchain import maps
from attnchain.maps import (
    component,
    enlarge,
    otsu_threshold,
    parts,
    regions_at,
    unit_range,
)


def two_bumps(seed):
    """Values in [0, 1] with two modes of different weight and width."""
    rng = np.random.default_rng(seed)
    low, high = rng.normal(0.3, 0.08, 3000), rng.normal(0.75, 0.05, 900)
    return np.concatenate([low, high]).clip(0, 1)


@pytest.mark.parametrize("bins", [64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_otsu_separates_as_scikit_image_does(seed, bins):
    filters = pytest.importorskip("skimage.filters")
    # Both measure from the edges of the same bins: their histogram spans the data,
    # ours [0, 1], so the data is made to span it.
    values = np.concatenate([two_bumps(seed), [0.0, 1.0]])
    expected = filters.threshold_otsu(values, nbins=bins)
    found = otsu_threshold(torch.from_numpy(values), bins=bins)
    # Theirs is the centre of the last bin below, ours its upper edge: the same cut.
    centre = (np.floor(expected * bins) + 0.5) / bins
    assert abs(found - centre - 0.5 / bins) < 1e-9


def test_otsu_maximises_the_variance_between_the_classes():
    values = two_bumps(7)

    def between(threshold):
        below, above = values[values < threshold], values[values >= threshold]
        gap = below.mean() - above.mean()
        return len(below) * len(above) * gap**2

    best = max(map(between, np.arange(40, 220) / 256))
    assert between(otsu_threshold(torch.from_numpy(values))) >= 0.999 * best


def test_otsu_cuts_two_values_apart():
    values = torch.tensor([0.2, 0.2, 0.9])
    assert 0.2 < otsu_threshold(values) <= 0.9


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 4), (5, 1), (4, 4)])
def test_a_flat_map_stays_flat_at_picture_size(rows, columns):
    large = enlarge(torch.full((rows, columns), 0.3), width=31, height=17)
    assert large.shape == (17, 31)
    torch.testing.assert_close(large, torch.full((17, 31), 0.3))


def test_a_patch_value_belongs_to_the_centre_of_its_patch():
    maps = torch.rand(3, 4, 6)
    large = enlarge(maps, width=6 * 7, height=4 * 7)
    centres = torch.arange(6) * 7 + 3
    torch.testing.assert_close(large[:, centres[:4]][:, :, centres], maps)


def test_a_ramp_is_a_ramp_between_the_centres():
    large = enlarge(torch.arange(4.0)[None], width=40, height=10)
    steps = large[:, 5:35].diff(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 0.1))


def test_leading_dimensions_are_kept():
    assert enlarge(torch.rand(2, 3, 4, 5), width=9, height=8).shape == (2, 3, 8, 9)


def test_unit_range():
    values = torch.tensor([[-2.0, 0.0], [6.0, 2.0]])
    expected = torch.tensor([[0.0, 0.25], [1.0, 0.5]])
    torch.testing.assert_close(unit_range(values), expected)
    assert torch.equal(unit_range(torch.full((3,), 7.0)), torch.zeros(3))


MASK = torch.tensor(
    [[1, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]]
).bool()


@pytest.mark.parametrize(
    ("place", "size"), [((0, 0), 2), ((1, 2), 2), ((3, 4), 3)], ids=str
)
def test_the_heaviest_region_is_kept(place, size):
    weight = torch.full(MASK.shape, 0.1)
    weight[place] = 1
    chosen = component(MASK, weight)
    assert int(chosen.sum()) == size
    assert chosen[place]
    assert not (chosen & ~MASK).any()


def test_weight_outside_the_mask_does_not_count():
    weight = torch.full(MASK.shape, 0.1)
    weight[0, 3] = 100
    assert int(component(MASK, weight).sum()) == 3


def test_of_nothing_nothing_is_left():
    empty = torch.zeros(3, 3, dtype=torch.bool)
    assert not component(empty, torch.ones(3, 3)).any()


def test_everything_is_one_region():
    whole = torch.ones(3, 5, dtype=torch.bool)
    assert component(whole, torch.ones(3, 5)).all()


def test_the_regions_at_some_pixels_and_no_others():
    rows = ["##..#", "#...#", "..#..", "#.#.#"]
    mask = torch.tensor([[cell == "#" for cell in row] for row in rows])
    found = regions_at(mask, [(0, 1), (3, 2), (1, 1)])
    expected = ["##...", "#....", "..#..", "..#.."]
    assert [["#" if x else "." for x in row] for row in found] == [
        list(row) for row in expected
    ]
    assert not regions_at(mask, [(1, 1)]).any()


@pytest.mark.parametrize("strip", [1, 700, 2**22])
def test_the_largest_map_is_found_in_strips(generator, monkeypatch, strip):
    monkeypatch.setattr(maps, "_STRIP", strip)
    small = torch.rand(5, 7, 9, generator=generator)
    large = maps.enlarge(small, width=130, height=95)
    plain = torch.nn.functional.interpolate(small[None], (95, 130), mode="bilinear")[0]
    torch.testing.assert_close(large, plain)
    assert torch.equal(maps.largest(small, width=130, height=95), large.argmax(0))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (9, 7), (4, 3), (1, 400)])
def test_enlarging_is_bilinear_at_any_size(generator, width, height):
    small = torch.rand(2, 7, 9, generator=generator, dtype=torch.float64)
    plain = torch.nn.functional.interpolate(
        small[None], (height, width), mode="bilinear"
    )
    found = maps.enlarge(small, width=width, height=height)
    torch.testing.assert_close(found, plain[0])


def test_a_region_is_weighed_in_strips(generator, monkeypatch):
    mask = torch.rand(40, 30, generator=generator) > 0.45
    weight = torch.rand(40, 30, generator=generator)
    whole = maps.component(mask, weight)
    monkeypatch.setattr(maps, "_STRIP", 100)
    assert torch.equal(maps.component(mask, weight), whole)


def test_parts_are_what_stands_apart_and_lose_no_pixel():
    mask = torch.zeros(6, 12, dtype=torch.bool)
    mask[:4, :3] = mask[1:5, 6:8] = True
    mask[0, 11] = mask[5, 0] = True
    first, second = parts(mask.long(), least=3)
    assert torch.equal(first | second, mask)
    assert not (first & second).any()
    assert first[5, 0]
    assert second[0, 11]
    assert (int(first.sum()), int(second.sum())) == (13, 9)
    assert torch.equal(parts(mask.long(), least=50), mask[None])
    assert parts(torch.zeros_like(mask).long(), least=1).shape == (0, 6, 12)


def test_parts_of_other_labels_stand_apart_though_they_touch():
    labels = torch.zeros(4, 9, dtype=torch.long)
    labels[:, :5], labels[:, 5:8], labels[0, 7] = 1, 2, 1
    first, second = parts(labels, least=2)
    assert torch.equal(first, labels.eq(1) & (torch.arange(9) < 5))
    assert torch.equal(second, (torch.arange(9) >= 5) & (labels > 0))
