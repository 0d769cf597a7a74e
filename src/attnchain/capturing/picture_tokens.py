"""Vision-language models: which token of a prompt is which part of which picture.

A rule finds the picture tokens by their number in `input_ids`. How many there are of
each picture, and in which order, it reads from the other arguments of the model.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from dataclasses import replace
from typing import cast
from weakref import WeakKeyDictionary

from attnchain.capturing import picture_sizes as sizes
from attnchain.capturing.calls import RunningModule
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.picture_sizes import Describe, Prompts
from attnchain.capturing.picture_tiles import picture_among
from attnchain.capturing.sites import Kind
from attnchain.capturing.token_layout import Layout
from attnchain.errors import GridError

_FOUND: WeakKeyDictionary[RunningModule, TokenGrid] = WeakKeyDictionary()
"""So that a prompt is read once, not once a layer."""


def among_words(**pictures: Describe) -> Callable[..., Layout]:
    """Returns a rule, from functions named by the token's number in the config."""

    def rule(call: RunningModule, _: Kind, n_queries: int, n_keys: int) -> Layout:
        if call not in _FOUND:
            _FOUND[call] = _prompt(call, pictures)
        if n_keys == n_queries:
            return Layout.of(_FOUND[call])
        return Layout(_FOUND[call], "the cache holds keys of earlier passes")

    return rule


def _prompt(call: RunningModule, pictures: dict[str, Describe]) -> TokenGrid:
    """The grid of the first picture, that of the others in its `more`."""
    prompts = cast("Prompts", call.needed("input_ids").tolist())
    found: list[TokenGrid] = []
    for name, describe in pictures.items():
        number = getattr(call.module.config, name)
        places = [[i for i, t in enumerate(p) if t == number] for p in prompts]
        if any(places):
            grids = describe(call, prompts)
            alike = grids[: len(grids) // len(prompts)]
            if places != [places[0]] * len(prompts) or grids != alike * len(prompts):
                message = (
                    "the prompts of the batch hold pictures of different sizes or at "
                    "different places; give the model one prompt at a time"
                )
                raise GridError(message)
            found += _placed(alike, places[0], len(prompts[0]))
    if not found:
        return TokenGrid.of_text(len(prompts[0]))
    found.sort(key=lambda grid: min(view.prefix for view in grid.views))
    views = [
        replace(v, more=(), picture=i) for i, g in enumerate(found) for v in g.views
    ]
    return replace(views[0], more=tuple(views[1:]))


def _placed(grids: list[TokenGrid], places: list[int], n: int) -> list[TokenGrid]:
    """Moves pictures to the places of their tokens among n."""
    expected = sum(grid.n_tokens for grid in grids)
    if expected != len(places):
        message = (
            f"the pictures were expected to take {expected} tokens of the prompt, but "
            f"it holds {len(places)} picture tokens"
        )
        raise GridError(message)
    moved: list[TokenGrid] = []
    start = 0
    for grid in grids:
        own = places[start : start + grid.n_tokens]
        first, *others = (
            picture_among(
                [own[i] for i in view.positions],
                n,
                rows=view.rows,
                columns=view.columns,
            )
            for view in grid.views
        )
        moved.append(replace(first, more=tuple(others)))
        start += grid.n_tokens
    return moved


_QWEN = among_words(
    image_token_id=sizes.merged("image"), video_token_id=sizes.merged("video")
)
_TAGGED = among_words(image_token_id=sizes.tagged_tiles)

RULES: dict[str, Callable[..., Layout]] = {
    "transformers.LlavaModel": among_words(image_token_id=sizes.with_class),
    "transformers.LlavaNextModel": among_words(image_token_id=sizes.with_newlines),
    "transformers.PaliGemmaModel": among_words(image_token_id=sizes.patch_by_patch),
    "transformers.Gemma3Model": among_words(image_token_id=sizes.pooled),
    "transformers.Qwen2VLModel": _QWEN,
    "transformers.Qwen2_5_VLModel": _QWEN,
    "transformers.Qwen3VLModel": _QWEN,
    "transformers.Idefics3Model": _TAGGED,
    "transformers.SmolVLMModel": _TAGGED,
    "transformers.InternVLModel": among_words(image_token_id=sizes.untold_tiles),
}
