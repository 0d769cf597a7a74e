"""Prompt and answer as one chain: the passes of `generate`, put together."""

# pyright: reportUnknownMemberType=false

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.records import AbstractRecord, AttentionRecord
from attnchain.capturing.token_layout import Layout
from attnchain.errors import CaptureError


def joined_passes(records: Iterable[AbstractRecord]) -> tuple[AttentionRecord, ...]:
    """Self-attention of a prompt and its continuation, a record for each layer.

    `generate` reads the prompt in one pass and each token of the answer in another,
    whose queries see the keys kept in a cache. Queries of all passes with the keys of
    the last are what one pass over the whole text would give. The last token of the
    answer was never read by the model, and is none of the states.

    Args:
        records: Of all passes of a model with a cache, in order of execution:
            `captured.matching(kind="self")`.

    Returns:
        One record for each layer, the grid of the prompt in the longer sequence. What
        ran in a single pass is as it was.

    Raises:
        CaptureError: Keys of one pass are not those of the pass before: a beam search,
            a cache of a sliding window, or passes without a cache or of several texts.
            Or a record keeps a matrix.
    """
    found: dict[tuple[str, int], list[AttentionRecord]] = {}
    for record in records:
        if not isinstance(record, AttentionRecord):
            message = f"{record.site} keeps a matrix, no keys to follow from pass to"
            raise CaptureError(f"{message} pass; capture with keep='qk'")
        found.setdefault((record.site.name, record.site.call), []).append(record)
    return tuple(_joined(passes) for passes in found.values())


def _joined(passes: Sequence[AttentionRecord]) -> AttentionRecord:
    """One record of the passes of one layer."""
    ends = list(accumulate(one.q.shape[2] for one in passes))
    heads = max(one.k.shape[1] for one in passes)
    kept = [
        _with_own_keys(one, end, heads) for one, end in zip(passes, ends, strict=True)
    ]
    for before, after, end in zip(kept, kept[1:], ends, strict=False):
        if before.k.shape[:2] != after.k.shape[:2] or not torch.equal(
            before.k, after.k[:, :, :end]
        ):
            raise CaptureError(_moved(after))
    first, last = kept[0], kept[-1]
    if len(kept) == 1:
        return first
    plain = all(one.mask is None and _sees_back(one) for one in kept)
    return AttentionRecord(
        first.site,
        torch.cat([one.q for one in kept], 2),
        last.k,
        scale=first.scale,
        mask=None if plain else _mask(kept, ends[-1]),
        causal=plain,
        layout=_layout(first, ends[-1]),
    )


def _sees_back(one: AttentionRecord) -> bool:
    """Whether every query sees all keys up to its own, and no other."""
    return one.causal or one.q.shape[2] == 1


def _with_own_keys(one: AttentionRecord, end: int, heads: int) -> AttentionRecord:
    """Without the places of a static cache that are empty yet.

    Under a mask some models repeat key heads that queries share, and else they do not.
    """
    if one.k.shape[2] < end:
        raise CaptureError(_moved(one))
    mask = None if one.mask is None else one.mask[..., :end]
    if mask is not None and mask.dtype == torch.bool and bool(mask.all()):
        mask = None
    keys = one.k[:, :, :end].repeat_interleave(heads // one.k.shape[1], dim=1)
    return replace(one, k=keys, mask=mask)


def _mask(passes: Sequence[AttentionRecord], length: int) -> Tensor:
    """The masks of all passes, one below the other, over all keys of the text."""
    rows = [_rows(one, length) for one in passes]
    added = [part for part in rows if part.dtype != torch.bool]
    if added:
        rows = [
            part
            if part.dtype != torch.bool
            else added[0].new_zeros(part.shape).masked_fill(~part, -torch.inf)
            for part in rows
        ]
    heads = max(part.shape[1] for part in rows)
    return torch.cat([part.expand(-1, heads, -1, -1) for part in rows], -2)


def _rows(one: AttentionRecord, length: int) -> Tensor:
    """The mask of the queries of a pass, over all keys of the text."""
    n_inputs, _, n, end = one.shape
    mask = one.mask
    if mask is None:
        mask = torch.ones(1, 1, n, end, dtype=torch.bool, device=one.q.device)
        mask = mask.tril() if one.causal else mask
    hidden = False if mask.dtype == torch.bool else -torch.inf
    mask = mask.expand(n_inputs, -1, n, end)
    return torch.nn.functional.pad(mask, (0, length - end), value=hidden)


def _layout(first: AbstractRecord, length: int) -> Layout:
    grid = first.layout.queries
    if isinstance(grid, str):
        return Layout.of(grid)
    if not grid.n_patches:
        return Layout.of(TokenGrid.of_text(length))
    return Layout.of(_longer(grid, length - grid.n_tokens))


def _longer(grid: TokenGrid, extra: int) -> TokenGrid:
    """The same places in a sequence that goes on."""
    more = tuple(_longer(view, extra) for view in grid.more)
    return replace(grid, suffix=grid.suffix + extra, more=more)


def _moved(after: AttentionRecord) -> str:
    return (
        f"the keys that {after.site} sees are not those of the passes before, followed "
        "by its own: passes of a beam search, of a cache that drops keys or of several "
        "texts are no one chain. Capture one pass over the whole text: "
        "model(input_ids=everything)"
    )
