"""Layouts of attention inside windows, and of patches that come window by window."""

# pyright: reportUnknownMemberType=false

from functools import lru_cache
from typing import Any, cast

import torch

from attnchain.capturing.calls import RunningModule
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.picture_tiles import picture_among
from attnchain.capturing.sites import Kind
from attnchain.capturing.token_layout import Layout


def swin_windows(call: RunningModule, *_: Any) -> Layout:
    """Swin: the padded picture is rolled, then cut into windows."""
    rows, columns = call.argument("input_dimensions")
    window, shift = int(call.module.window_size), int(call.module.shift_size)
    return Layout.of(
        TokenGrid(
            window,
            window,
            windows=(-(-rows // window), -(-columns // window)),
            shift=(shift, shift),
            size=(rows, columns),
        )
    )


def timm_windows(call: RunningModule, *_: Any) -> Layout:
    """Swin in timm: the picture is rolled, then padded, then cut into windows."""
    rows, columns = call.needed("x").shape[1:3]
    window: tuple[int, int] = tuple(call.module.window_size)
    shift: tuple[int, int] = tuple(call.module.shift_size)
    if any(shift) and (rows % window[0] or columns % window[1]):
        return Layout.of("the picture was padded between shift and windows")
    return Layout.of(
        TokenGrid(
            window[0],
            window[1],
            windows=(-(-rows // window[0]), -(-columns // window[1])),
            shift=shift,
            size=(rows, columns),
        )
    )


def sam_windows(call: RunningModule, *_: Any) -> Layout:
    """SAM: the picture, or windows of the picture padded right and below."""
    rows, columns = call.needed("hidden_states").shape[1:3]
    window = call.module.window_size
    if not window:
        return Layout.of(TokenGrid(rows, columns))
    windows = -(-rows // window), -(-columns // window)
    return Layout.of(TokenGrid(window, window, windows=windows, size=(rows, columns)))


def square_by_square(call: RunningModule, _: Kind, n_queries: int, __: int) -> Layout:
    """Qwen-VL: patches come square by square; each frame is attended to by itself."""
    config = call.module.config
    given = cast("list[list[int]]", call.needed("grid_thw").tolist())
    sizes = {(rows, columns) for _, rows, columns in given}
    window = getattr(config, "window_size", 0)
    fitting = {size for size in sizes if size[0] * size[1] == n_queries}
    if len(fitting) > 1 or (window and len(sizes) > 1):
        return Layout.of("pictures of several sizes are attended to one by one")
    if not fitting:
        return Layout.of("attention stays in windows, each attended to by itself")
    merge = config.spatial_merge_size
    side = window // merge // config.patch_size if window else max(max(fitting))
    return Layout.of(_in_squares(*fitting.pop(), merge, side))


@lru_cache(maxsize=64)
def _in_squares(rows: int, columns: int, merge: int, side: int) -> TokenGrid:
    """A picture whose patches come window by window and in them square by square.

    Args:
        rows: Rows of patches.
        columns: Columns of patches.
        merge: Patches along the side of a square.
        side: Squares along the side of a window.
    """

    def order(patch: int) -> tuple[int, ...]:
        row, column = divmod(patch, columns)
        down, across = row // merge, column // merge
        return down // side, across // side, down, across, row, column

    sequence = sorted(range(rows * columns), key=order)
    places = cast("list[int]", torch.tensor(sequence).argsort().tolist())
    return picture_among(places, rows * columns, rows=rows, columns=columns)
