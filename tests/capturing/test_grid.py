"""Token grids: positions, points in a picture, maps, windows, text."""

import pytest
import torch

from attnchain.capturing import TokenGrid, picture_in_tiles
from attnchain.errors import GridError, ImageError


def test_counts_and_patches():
    grid = TokenGrid(2, 3, prefix=5, suffix=4, text=range(11, 15))
    assert (grid.n_patches, grid.n_tokens) == (6, 15)
    assert list(range(15))[grid.patches] == [5, 6, 7, 8, 9, 10]


def test_text_only():
    grid = TokenGrid.of_text(4)
    assert (grid.n_tokens, grid.n_patches, list(grid.text)) == (4, 0, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (TokenGrid(4, 6, prefix=1), "1 special + 4 x 6 patches"),
        (TokenGrid(4, 6, prefix=5, text=range(5)), "5 text + 4 x 6 patches"),
        (TokenGrid(2, 2, suffix=3, text=range(4, 7)), "2 x 2 patches + 3 text"),
        (TokenGrid.of_text(7), "7 text"),
        (
            TokenGrid(4, 4, windows=(2, 3), shift=(2, 2)),
            "4 x 4 patches in 2 x 3 windows shifted by (2, 2)",
        ),
    ],
)
def test_in_words(grid, words):
    assert str(grid) == words


@pytest.mark.parametrize(
    ("x", "y", "patch"),
    [(0, 0, 0), (99.9, 0, 2), (50, 49.9, 4), (33, 25, 3), (34, 24.9, 1)],
)
def test_patch_at_a_point(x, y, patch):
    assert TokenGrid(2, 3, prefix=1).patch_at(x, y, width=100, height=50) == patch


def test_every_pixel_falls_into_the_patch_that_covers_it():
    grid = TokenGrid(7, 5)
    for y in range(49):
        for x in range(35):
            assert grid.patch_at(x, y, width=35, height=49) == y // 7 * 5 + x // 7


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -0.1), (100, 0), (0, 50)])
def test_a_point_outside_the_picture_is_refused(x, y):
    with pytest.raises(ImageError, match="outside the picture"):
        TokenGrid(2, 3).patch_at(x, y, width=100, height=50)


def test_a_point_needs_a_picture():
    with pytest.raises(GridError, match="no place in a picture"):
        TokenGrid.of_text(3).patch_at(0, 0, width=1, height=1)


def test_a_point_in_windowed_attention_is_refused():
    with pytest.raises(GridError, match="windows"):
        TokenGrid(2, 2, windows=(2, 2)).patch_at(0, 0, width=1, height=1)


def test_maps_of_patches_and_of_all_tokens():
    grid = TokenGrid(2, 3, prefix=1, suffix=2)
    values = torch.arange(9.0).expand(4, 9)
    expected = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).expand(4, 2, 3)
    assert torch.equal(grid.to_map(values), expected)
    assert torch.equal(grid.to_map(values[:, 1:7]), expected)


def test_a_map_of_another_length_is_refused():
    with pytest.raises(GridError, match=r"expected 6 values .* or 7 for all"):
        TokenGrid(2, 3, prefix=1).to_map(torch.zeros(5))


def test_a_map_without_patches_is_refused():
    with pytest.raises(GridError, match="no map"):
        TokenGrid.of_text(3).to_map(torch.zeros(3))


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_windows_merge_to_the_picture_they_were_cut_from(shift):
    picture = torch.randn(2, 5, 10)
    padded = torch.nn.functional.pad(picture, (0, 2, 0, 3))
    rolled = padded.roll((-shift, -shift), (1, 2))
    windows = rolled.unflatten(1, (2, 4)).unflatten(3, (3, 4)).transpose(2, 3)
    grid = TokenGrid(4, 4, windows=(2, 3), shift=(shift, shift), size=(5, 10))
    merged = grid.merge_windows(windows.reshape(12, 16))
    assert torch.equal(merged, picture)


def test_windows_merge_with_a_head_axis():
    grid = TokenGrid(2, 2, windows=(1, 2))
    values = torch.randn(6, 3, 4)
    merged = grid.merge_windows(values)
    assert merged.shape == (3, 3, 2, 4)
    assert torch.equal(merged[1, 2, :, 2:], values[3, 2].reshape(2, 2))


def test_windows_of_another_number_are_refused():
    with pytest.raises(GridError, match="multiple of 1 x 2 windows"):
        TokenGrid(2, 2, windows=(1, 2)).merge_windows(torch.zeros(3, 4))


@pytest.mark.parametrize(
    "text", [range(3, 5), range(0, 4, 2), range(5, 9), range(0, 8)], ids=str
)
def test_text_must_lie_outside_the_patches(text):
    with pytest.raises(GridError, match="text positions"):
        TokenGrid(2, 2, prefix=4, text=text)


def test_negative_sizes_are_refused():
    with pytest.raises(GridError, match=">= 0"):
        TokenGrid(2, -3)


def test_a_video_is_frames_of_rows_and_columns():
    grid = TokenGrid(2, 3, frames=4, prefix=1)
    assert (grid.n_patches, grid.n_tokens) == (24, 25)
    assert str(grid) == "1 special + 4 x 2 x 3 patches"
    values = torch.arange(24.0)
    assert torch.equal(grid.to_map(values), values.view(4, 2, 3))
    with pytest.raises(GridError, match="4 frames is no single picture"):
        grid.patch_at(0, 0, width=3, height=2)
    with pytest.raises(GridError, match="windows of a video"):
        grid.merge_windows(values[None])
    with pytest.raises(GridError, match=">= 0"):
        TokenGrid(2, 3, frames=0)


def test_a_picture_among_words():
    """Rows of two patches, a token after each row; then the picture once more."""
    small = TokenGrid(1, 1, prefix=7, suffix=1, places=(7,))
    grid = TokenGrid(2, 2, prefix=1, suffix=4, places=(1, 2, 4, 5), more=(small,))
    assert (grid.n_tokens, grid.positions) == (9, (1, 2, 4, 5))
    assert str(grid) == "2 x 2 patches and 1 more among 9 tokens"
    values = torch.arange(9.0)
    expected = [torch.tensor([[1.0, 2], [4, 5]]), torch.tensor([[7.0]])]
    for view, values_of_view in zip(grid.views, expected, strict=True):
        assert torch.equal(view.to_map(values), values_of_view)
    with pytest.raises(GridError, match="not in one piece; use positions"):
        _ = grid.patches
    assert small.patches == slice(7, 8)


def test_boxes_hold_the_points_of_their_patches():
    grid = TokenGrid(3, 4, prefix=2)
    boxes = grid.boxes()
    assert boxes.shape == (12, 4)
    for k, (left, upper, right, lower) in enumerate(boxes.tolist()):
        for x in (left + 1e-4, right - 1e-4):
            for y in (upper + 1e-4, lower - 1e-4):
                assert grid.patch_at(x, y, width=1, height=1) == k


def test_boxes_need_a_picture():
    with pytest.raises(GridError, match="no place in a picture"):
        TokenGrid.of_text(3).boxes()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((1, 2, 4), "4 different places"),
        ((1, 2, 4, 4), "4 different places"),
        ((1, 2, 4, 9), "among 9 tokens"),
        ((2, 3, 4, 5), "first after 1"),
    ],
)
def test_places_must_be_those_of_the_patches(places, message):
    with pytest.raises(GridError, match=message):
        TokenGrid(2, 2, prefix=1, suffix=4, places=places)


def test_more_pictures_lie_in_the_same_sequence():
    with pytest.raises(GridError, match="grids of the same 5 tokens"):
        TokenGrid(2, 2, suffix=1, more=(TokenGrid(1, 1),))


def test_tiles_are_one_picture():
    """Cut a picture of numbered cells into tiles, and put it together again."""
    cells = torch.arange(6 * 6).view(6, 6)
    tiles = cells.view(2, 3, 3, 2).transpose(1, 2).flatten()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    places = order[:36].tolist()
    values = torch.full((40,), -1)
    values[places] = tiles
    grid = picture_in_tiles(places, 40, tiles=(2, 3), rows=3, columns=2)
    assert torch.equal(grid.to_map(values), cells)
    assert grid.more == ()


def test_tiles_of_another_number_are_refused():
    with pytest.raises(GridError, match="8 tokens, or 12 with a thumbnail, not 9"):
        picture_in_tiles(range(9), 9, tiles=(1, 2), rows=2, columns=2)
