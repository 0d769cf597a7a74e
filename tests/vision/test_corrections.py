"""Corrections by marks: the walk against dense equations, and what one may change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import distance_transform_edt

from attnchain.capturing import TokenGrid
from attnchain.operators import DenseTransition
from attnchain.vision.corrections import LONGEST, Found, canvas, corrected, proposed

ROWS, COLUMNS = 20, 30
CHAIN = DenseTransition(torch.tensor([[0.6, 0.4], [0.4, 0.6]]))


def drawn(colours):
    return canvas(Image.fromarray(colours), TokenGrid(1, 2), CHAIN)


def noise(seed, *, rows=ROWS, columns=COLUMNS):
    drawing = np.random.default_rng(seed)
    return drawing.integers(0, 256, (rows, columns, 3)).astype(np.uint8)


def test_a_large_picture_is_walked_on_smaller():
    large = drawn(np.zeros((30, 2 * LONGEST, 3), dtype=np.uint8))
    assert large.shape == (15, LONGEST)
    picture = Image.new("RGB", (2 * LONGEST, 30))
    assert large.within([(0, 0), (1, 1), (799, 29)], picture) == [(0, 0), (14, 399)]


def test_the_walk_solves_the_dense_equations():
    """Without colour: all pixels alike, so that the odds of colours are even."""
    rows, columns = 4, 6
    odds = np.random.default_rng(0).normal(size=(rows, columns))
    flat = drawn(np.full((rows, columns, 3), 90, dtype=np.uint8))
    around = np.ones((rows, columns), dtype=bool)
    around[:, -1] = False
    found = proposed(flat, odds, [(1, 1)], around)
    mask = (odds > 0) & around
    mask[1, 1] = True
    shares = np.array([mask[:, :3].mean(), mask[:, 3:].mean()])
    steps, mean = CHAIN.to_dense().double().numpy() @ shares, shares.mean()
    chain = np.log(steps / (1 - steps)) - np.log(mean / (1 - mean))
    place = np.clip((np.arange(columns) + 0.5) * 2 / columns - 0.5, 0, 1)
    said = 3 * odds + (chain[0] + (chain[1] - chain[0]) * place)
    prior = 1 / (1 + np.exp(-said))
    matrix, right = np.zeros((24, 24)), 0.01 * prior.ravel()
    for y in range(rows):
        for x in range(columns):
            i = y * columns + x
            for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= v < rows and 0 <= u < columns:
                    matrix[i, i] += 1.001
                    matrix[i, v * columns + u] -= 1.001
            matrix[i, i] += 0.01
    held = (~around).ravel()
    held[columns + 1] = True
    matrix[held], right[held] = np.eye(24)[held], 0
    right[columns + 1] = 1
    expected = np.linalg.solve(matrix, right).reshape(rows, columns) - 0.5
    inside = expected > 0
    assert inside[1, 1]
    assert np.abs(np.abs(found.score) - np.abs(expected)).max() < 1e-4


def object_found(reach=np.inf):
    """A rectangle, and nothing that marks decided."""
    mask = np.zeros((ROWS, COLUMNS), dtype=bool)
    mask[4:15, 6:20] = True
    none = np.zeros_like(mask)
    marks = (((9, 9), True),)
    return Found(np.where(mask, 0.5, -0.5), none, none, marks, reach=reach)


def disc(row, column, radius):
    y, x = np.ogrid[:ROWS, :COLUMNS]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def overlap(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


place = st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1))
many = settings(max_examples=25, deadline=None)


@given(place, st.booleans(), st.integers(0, 9), st.sampled_from([1, 2.5, np.inf]))
@many
def test_a_mark_changes_one_side_and_no_more_than_it_may(at, sign, seed, reach):
    found = object_found(reach)
    odds = np.random.default_rng(seed).normal(size=found.mask.shape)
    after = corrected(drawn(noise(seed)), found, odds, [at], sign=sign)
    changed = after.mask != found.mask
    if found.mask[at] == sign:
        assert not changed.any()
        assert after.reach == reach
        return
    assert after.mask[at] == sign
    assert (after.mask[changed] == sign).all()
    depth = distance_transform_edt(found.mask != sign)[at]
    half = np.inf if sign else np.hypot(at[0] - 9, at[1] - 9) / 2
    assert after.reach == min(reach, depth, half)
    within = (changed & disc(*at, after.reach)).sum()
    assert changed.sum() <= 2 * within + 0.03 * found.mask.sum()


@given(place, st.booleans(), st.integers(0, 999))
@many
def test_a_mark_in_the_middle_of_an_error_hardly_lowers_the_iou(at, sign, seed):
    """Whatever the object is elsewhere: all within the reach of the mark was wrong."""
    found = object_found()
    drawing = np.random.default_rng(seed)
    odds = drawing.normal(1 if sign else -1, 1, size=found.mask.shape)
    after = corrected(drawn(noise(seed)), found, odds, [at], sign=sign)
    if found.mask[at] == sign:
        return
    near = disc(*at, after.reach)
    changed = after.mask != found.mask
    truth = (found.mask & ~changed | (drawing.random(near.shape) < 0.1)) & ~near
    if not sign:
        truth |= changed & ~near
    truth |= near & sign
    before, either = overlap(found.mask, truth), (found.mask | truth).sum()
    within = (changed & near).sum()
    lost = 0.03 * found.mask.sum() + (0 if sign else (1 - before) * within)
    least = before - lost / (either - (0 if sign else within))
    assert overlap(after.mask, truth) >= least - 1e-9


def test_no_mark_reaches_further_than_one_before_it():
    """Both in the middle of the object, far from its border."""
    found = replace(object_found(), marks=(((14, 6), True),))
    flat = np.full((ROWS, COLUMNS, 3), 90, dtype=np.uint8)
    odds = np.full(found.mask.shape, -1.0)
    far, near = (
        corrected(drawn(flat), replace(found, reach=reach), odds, [(9, 13)], sign=False)
        for reach in (np.inf, 2.0)
    )
    assert (far.mask < near.mask).sum() > 30
    assert (near.mask < far.mask).sum() == 0


@pytest.mark.parametrize("far", [1, 10])
def test_what_is_cut_off_goes_only_where_it_is_little(far):
    """A mark on a neck says little about what is large at its other end."""
    mask = np.zeros((ROWS, COLUMNS), dtype=bool)
    mask[5:15, 2:12] = mask[9:12, 12:18] = True
    mask[9:12, 18 : 18 + far] = True
    found = replace(object_found(), score=np.where(mask, 0.5, -0.5))
    flat = drawn(np.full((ROWS, COLUMNS, 3), 90, dtype=np.uint8))
    odds = np.full(mask.shape, -1.0)
    after = corrected(flat, found, odds, [(10, 15)], sign=False)
    assert not after.mask[9:12, 15].any()
    assert after.mask[5:15, 2:9].all()
    assert after.mask[9, 17 + far] == (far == 10)


def test_a_stroke_turns_all_that_the_walk_agrees_with():
    """Where all speaks against the object, a click takes a part, a stroke the whole."""
    found = replace(object_found(reach=2.0), marks=())
    flat = drawn(np.full((ROWS, COLUMNS, 3), 90, dtype=np.uint8))
    odds = np.full(found.mask.shape, -9.0)
    pixels = [(9, column) for column in range(8, 18)]
    click = corrected(flat, found, odds, pixels[4:5], sign=False)
    stroke = corrected(flat, found, odds, pixels, sign=False)
    assert click.mask.sum() > 0.6 * found.mask.sum()
    assert not stroke.mask.any()
    assert (click.reach, stroke.reach) == (2.0, 2.0)


def test_what_a_mark_decided_is_held_against_later_ones():
    """The second mark, just beside, may not take the first one's pixels back."""
    mask = np.zeros((ROWS, COLUMNS), dtype=bool)
    mask[:, :15] = True
    none, odds = np.zeros_like(mask), np.zeros(mask.shape)
    found = Found(np.where(mask, 0.5, -0.5), none, none, (((10, 2), True),))
    flat = drawn(np.full((ROWS, COLUMNS, 3), 90, dtype=np.uint8))
    one = corrected(flat, found, odds, [(10, 10)], sign=False)
    two = corrected(flat, one, odds, [(10, 12)], sign=True)
    assert not one.mask[10, 10]
    assert not two.mask[10, 10]
    assert two.mask[10, 12]
