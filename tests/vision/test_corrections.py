"""Corrections by marks: the walk against dense equations, and what one may change."""

import numpy as np
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
    said = 2 * odds + (chain[0] + (chain[1] - chain[0]) * place)
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


@given(
    st.integers(0, ROWS - 1),
    st.integers(0, COLUMNS - 1),
    st.booleans(),
    st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_a_mark_changes_one_side_and_no_more_than_it_may(row, column, sign, seed):
    mask = np.zeros((ROWS, COLUMNS), dtype=bool)
    mask[4:15, 6:20] = True
    none = np.zeros_like(mask)
    seeds = ((9, 9),) if sign else ()
    found = Found(np.where(mask, 0.5, -0.5), none, none, seeds)
    odds = np.random.default_rng(seed).normal(size=mask.shape)
    after = corrected(drawn(noise(seed)), found, odds, [(row, column)], sign=sign)
    changed = after.mask != mask
    if mask[row, column] == sign:
        assert not changed.any()
        return
    assert after.mask[row, column] == sign or not changed.any()
    depth = distance_transform_edt(mask != sign)[row, column]
    y, x = np.ogrid[:ROWS, :COLUMNS]
    near = (y - row) ** 2 + (x - column) ** 2 <= depth**2
    assert changed.sum() <= max(1, near.sum() / 2 + 0.05 * mask.sum())
    assert (after.mask[changed] == sign).all()


def test_what_a_mark_decided_is_held_against_later_ones():
    """The second mark, just beside, may not take the first one's pixels back."""
    mask = np.zeros((ROWS, COLUMNS), dtype=bool)
    mask[:, :15] = True
    none, odds = np.zeros_like(mask), np.zeros(mask.shape)
    found = Found(np.where(mask, 0.5, -0.5), none, none, ((10, 2),))
    flat = drawn(np.full((ROWS, COLUMNS, 3), 90, dtype=np.uint8))
    one = corrected(flat, found, odds, [(10, 10)], sign=False)
    two = corrected(flat, one, odds, [(10, 12)], sign=True)
    assert not one.mask[10, 10]
    assert not two.mask[10, 10]
    assert two.mask[10, 12]
