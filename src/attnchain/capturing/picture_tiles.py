"""Grids of pictures that lie among the words of a prompt, whole or tile by tile."""

# pyright: reportUnknownMemberType=false

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch

from attnchain.capturing.grid import TokenGrid
from attnchain.errors import GridError


def picture_among(
    places: Sequence[int], n_tokens: int, *, rows: int, columns: int
) -> TokenGrid:
    """Returns the grid of a picture, or video, among the words of a prompt.

    Args:
        places: Position of every patch, row by row, frame by frame.
        n_tokens: Length of the whole sequence.
        rows: Rows of patches.
        columns: Columns of patches.

    Raises:
        GridError: The places are not whole frames of the sequence.

    Example:
        >>> print(picture_among(range(5, 11), 20, rows=2, columns=3))
        2 x 3 patches among 20 tokens
    """
    first = min(places, default=0)
    return TokenGrid(
        rows,
        columns,
        prefix=first,
        suffix=n_tokens - len(places) - first,
        frames=max(1, len(places) // max(1, rows * columns)),
        places=tuple(places),
    )


def picture_in_tiles(
    places: Sequence[int],
    n_tokens: int,
    *,
    tiles: tuple[int, int],
    rows: int,
    columns: int,
) -> TokenGrid:
    """Returns the grid of a picture that a prompt holds tile by tile.

    Args:
        places: Positions of its tokens: the tiles row by row, each of them row by row;
            after them a thumbnail of the whole picture, if there is one.
        n_tokens: Length of the whole sequence.
        tiles: Tiles down and across.
        rows: Rows of tokens in a tile.
        columns: Columns of tokens in a tile.

    Returns:
        The grid of the whole picture; that of the thumbnail is in its `more`.

    Raises:
        GridError: The tokens are neither so many tiles nor one more.

    Example:
        >>> grid = picture_in_tiles(range(12), 12, tiles=(1, 2), rows=2, columns=2)
        >>> grid.places, grid.more[0].places
        ((0, 1, 4, 5, 2, 3, 6, 7), (8, 9, 10, 11))
    """
    (down, across), size = tiles, rows * columns
    whole = down * across * size
    if len(places) not in (whole, whole + size):
        message = (
            f"{down} x {across} tiles of {rows} x {columns} tokens are {whole} tokens, "
            f"or {whole + size} with a thumbnail, not {len(places)}"
        )
        raise GridError(message)
    order = torch.arange(whole).view(down, across, rows, columns).transpose(1, 2)
    mosaic = [places[i] for i in cast("list[int]", order.flatten().tolist())]
    grid = picture_among(mosaic, n_tokens, rows=down * rows, columns=across * columns)
    if len(places) == whole:
        return grid
    small = picture_among(places[whole:], n_tokens, rows=rows, columns=columns)
    return replace(grid, more=(small,))
