"""How many tokens a picture takes in a prompt, and which patch each of them is.

There is a function for each way in which vision-language models do it. It is given the
running model and the token numbers of its prompts.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isqrt
from typing import Any, cast

import torch
from torch import Tensor

from attnchain.capturing.calls import RunningModule
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.picture_tiles import picture_among, picture_in_tiles
from attnchain.errors import GridError

Prompts = list[list[int]]
Describe = Callable[[RunningModule, Prompts], list[TokenGrid]]
"""The grid of each picture, over its own tokens alone, prompt after prompt."""

WITH_CLASS = ("clip_vision_model",)
"""Towers of LLaVA whose first token is no patch."""


def _patches(call: RunningModule) -> tuple[int, int, int]:
    """Number of pictures or tiles, rows and columns of patches in each.

    Where pictures were encoded beforehand, as `generate` does, they are of the size
    that the model is made for.
    """
    vision, pixels = call.module.config.vision_config, call.tensor("pixel_values")
    if pixels is None:
        n_pictures = len(_encoded(call, "image", "pixel_values"))
        height, width = _pair(vision.image_size)
    else:
        n_pictures = pixels.shape[:-3].numel()
        height, width = pixels.shape[-2:]
    down, across = _pair(vision.patch_size)
    return n_pictures, height // down, width // across


def _encoded(call: RunningModule, modality: str, argument: str) -> Sequence[Tensor]:
    """What pictures were turned into beforehand, instead of an argument."""
    outputs = cast("dict[str, Any]", call.argument("mm_encoder_outputs") or {})
    encoded = outputs.get(modality)
    if encoded is None:
        raise GridError(f"the model was run without a tensor {argument!r}")
    return encoded.pooler_output


def _pair(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def patch_by_patch(call: RunningModule, _: Prompts) -> list[TokenGrid]:
    """PaliGemma: every patch is a token."""
    n_pictures, rows, columns = _patches(call)
    return [TokenGrid(rows, columns)] * n_pictures


def with_class(call: RunningModule, _: Prompts) -> list[TokenGrid]:
    """LLaVA: every patch is a token, perhaps a class token before them."""
    config = call.module.config
    sizes = call.argument("image_sizes")
    if sizes is not None:
        down, across = _pair(config.vision_config.patch_size)
        sizes = cast("list[tuple[int, int]]", torch.as_tensor(sizes).tolist())
        return [TokenGrid(height // down, width // across) for height, width in sizes]
    n_pictures, rows, columns = _patches(call)
    strategy = call.argument("vision_feature_select_strategy")
    strategy = strategy or config.vision_feature_select_strategy
    has_class = strategy == "full" and config.vision_config.model_type in WITH_CLASS
    return [TokenGrid(rows, columns, prefix=int(has_class))] * n_pictures


def pooled(call: RunningModule, _: Prompts) -> list[TokenGrid]:
    """Gemma 3: patches are averaged to so many tokens a picture."""
    side = isqrt(call.module.config.mm_tokens_per_image)
    return [TokenGrid(side, side)] * _patches(call)[0]


def merged(modality: str) -> Describe:
    """Qwen-VL: squares of patches are merged; sizes are given in patches."""

    def describe(call: RunningModule, prompts: Prompts) -> list[TokenGrid]:
        config, argument = call.module.config, f"{modality}_grid_thw"
        sizes = call.tensor(argument)
        if sizes is None:
            lengths = [len(one) for one in _encoded(call, modality, argument)]
            return _by_positions(
                call, prompts, getattr(config, f"{modality}_token_id"), lengths
            )
        merge = config.vision_config.spatial_merge_size
        return [
            TokenGrid(rows // merge, columns // merge, frames=frames)
            for frames, rows, columns in cast("Prompts", sizes.tolist())
        ]

    return describe


def _by_positions(
    call: RunningModule, prompts: Prompts, number: int, lengths: list[int]
) -> list[TokenGrid]:
    """Pictures of known lengths, by the rows and columns that the model is given."""
    positions = call.tensor("position_ids")
    if positions is None or positions.ndim != 3:
        raise GridError("the model was run without 'position_ids' of rows and columns")
    own = torch.tensor(prompts, device=positions.device) == number
    rows, columns = (
        cast("list[int]", positions[axis][own].tolist()) for axis in (-2, -1)
    )
    found: list[TokenGrid] = []
    start = 0
    for n_tokens in lengths:
        across = _counting(columns[start : start + n_tokens])
        down = _counting(rows[start : start + n_tokens : across])
        found.append(TokenGrid(down, across, frames=n_tokens // (down * across)))
        start += n_tokens
    return found


def _counting(numbers: list[int]) -> int:
    """How many numbers from the first on go up by one."""
    first = numbers[0] if numbers else 0
    steps = (k for k, n in enumerate(numbers) if n != first + k)
    return next(steps, len(numbers))


def with_newlines(call: RunningModule, _: Prompts) -> list[TokenGrid]:
    """LLaVA-NeXT: a thumbnail, then all tiles as one picture, its padding cut off.

    A token ends each row.
    """
    from transformers.models.llava_next import modeling_llava_next

    llava_next: Any = modeling_llava_next

    config, vision = call.module.config, call.module.config.vision_config
    side = vision.image_size // vision.patch_size
    small = TokenGrid(side, side)
    found: list[TokenGrid] = []
    for size in cast("Prompts", call.needed("image_sizes").tolist()):
        down, across = llava_next.get_anyres_image_grid_shape(
            size, config.image_grid_pinpoints, vision.image_size
        )
        padded = torch.empty(1, down * side, across * side)
        rows, columns = llava_next.unpad_image(padded, size).shape[1:]
        n_tokens = side**2 + rows * (columns + 1)
        ends = torch.arange(side**2, n_tokens).view(rows, columns + 1)
        places = cast("list[int]", ends[:, :-1].flatten().tolist())
        large = picture_among(places, n_tokens, rows=rows, columns=columns)
        first = picture_among(small.positions, n_tokens, rows=side, columns=side)
        found.append(replace(large, more=(first,)))
    return found


def tagged_tiles(call: RunningModule, prompts: Prompts) -> list[TokenGrid]:
    """Idefics 3, SmolVLM: tiles row by row, then the whole; each after its own tag.

    The tag of a whole picture is that of the last tile in a prompt. Rows of tiles end
    with a line break.
    """
    _, rows, columns = _patches(call)
    scale, number = call.module.config.scale_factor, call.module.config.image_token_id
    rows, columns = rows // scale, columns // scale
    found: list[TokenGrid] = []
    for prompt in prompts:
        starts = _starts(prompt, number, rows * columns)
        waiting: list[int] = []
        for start in starts:
            waiting.append(start)
            if prompt[start - 1] == prompt[starts[-1] - 1]:
                tiles = _arrangement(waiting, rows * columns)
                found.append(_whole(tiles, rows, columns))
                waiting = []
    return found


def _starts(prompt: list[int], number: int, size: int) -> list[int]:
    """Where each tile of a prompt begins."""
    places = [i for i, token in enumerate(prompt) if token == number]
    starts = places[::size]
    if len(places) % size or any(
        places[k * size + size - 1] != start + size - 1
        for k, start in enumerate(starts)
    ):
        message = f"the picture tokens of the prompt do not come in tiles of {size}"
        raise GridError(message)
    return starts


def _arrangement(starts: list[int], size: int) -> tuple[int, int]:
    """Tiles down and across, the last being the whole picture; 0 x 0 if it is alone."""
    n_tiles = len(starts) - 1
    gaps = [b - a - size for a, b in pairwise(starts[:-1])]
    breaks = [k for k, gap in enumerate(gaps, 1) if gap != len(("<fake>", "<tag>"))]
    down = len(breaks) + 1 if n_tiles else 0
    across = n_tiles // down if down else 0
    if breaks != [across * row for row in range(1, down)] or down * across != n_tiles:
        message = f"{n_tiles} tiles of a picture are not rows of equal length"
        raise GridError(message)
    return down, across


def _whole(tiles: tuple[int, int], rows: int, columns: int) -> TokenGrid:
    """The picture in tiles and as a whole."""
    if tiles == (0, 0):
        return TokenGrid(rows, columns)
    n_tokens = (tiles[0] * tiles[1] + 1) * rows * columns
    return picture_in_tiles(
        range(n_tokens), n_tokens, tiles=tiles, rows=rows, columns=columns
    )


def untold_tiles(call: RunningModule, prompts: Prompts) -> list[TokenGrid]:
    """InternVL: tiles in one run; the model is not told how they are arranged."""
    _, rows, columns = _patches(call)
    config = call.module.config
    rows, columns = (int(n * config.downsample_ratio) for n in (rows, columns))
    found: list[TokenGrid] = []
    for prompt in prompts:
        number, size = config.image_token_id, rows * columns
        run = 0
        for token in [*prompt, None]:
            if token == number:
                run += 1
            elif run > size:
                message = (
                    f"a picture takes {run} tokens, {run // size} tiles of {rows} x "
                    f"{columns}, and the model is not told how they are arranged; make "
                    f"its grid by capturing.picture_in_tiles"
                )
                raise GridError(message)
            elif run:
                found.append(TokenGrid(rows, columns))
                run = 0
    return found
