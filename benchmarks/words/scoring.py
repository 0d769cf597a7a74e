"""How well maps of words find their garments: exact masks, no threshold to choose."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

Maps = np.ndarray
"""(words, height, width), not negative."""


def separation(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC curve: how often a value inside is above one outside."""
    ranks = rankdata(np.concatenate([inside, outside]))[: len(inside)]
    above = ranks.sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the precision-recall steps; equal scores count as one step."""
    order = np.argsort(-scores, kind="stable")
    hits = truth[order].cumsum()
    last = np.append(np.diff(scores[order]) != 0, [True])
    precision = (hits / np.arange(1, len(hits) + 1))[last]
    gained = np.diff(hits[last], prepend=0)
    return float((precision * gained).sum() / hits[-1])


def _iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / max((found | truth).sum(), 1))


def scores_of(maps: Maps, masks: Sequence[np.ndarray]) -> dict[str, float]:
    """Scores of one picture, means over its words.

    Args:
        maps: One map for each garment, of the picture's size.
        masks: What is seen of each garment.

    Returns:
        `iou` of the pixels above the map's mean; `miou`, mean of that and of the rest;
        `pooled`, Acc / (2 - Acc), what ConceptAttention's code computes; `acc` of
        pixels; `ap`, average precision; `stacked`, that of (1 - map, map) as in its
        paper; with several garments `others`, AUC against the other garments, and
        `right`, pixels of a garment where its word is ahead of the other words.
    """
    rows = [
        _of_word(one, mask, np.logical_or.reduce([m for m in masks if m is not mask]))
        for one, mask in zip(maps, masks, strict=True)
    ]
    found = {
        name: float(np.mean([row[name] for row in rows]))
        for row in rows[:1]
        for name in row
    }
    if len(masks) > 1:
        shares = maps / maps.mean((1, 2), keepdims=True).clip(1e-30)
        ahead = shares.argmax(0)
        found["right"] = float(
            np.mean([(ahead[mask] == n).mean() for n, mask in enumerate(masks)])
        )
    return found


def _of_word(one: np.ndarray, mask: np.ndarray, others: np.ndarray) -> dict[str, float]:
    above = one > one.mean()
    right = float((above == mask).mean())
    unit = ((one - one.min()) / max(one.max() - one.min(), 1e-30)).ravel()
    flat = mask.ravel()
    scores = {
        "iou": _iou(above, mask),
        "miou": (_iou(above, mask) + _iou(~above, ~mask)) / 2,
        "acc": right,
        "pooled": right / (2 - right),
        "ap": average_precision(unit, flat),
        "stacked": average_precision(
            np.concatenate([1 - unit, unit]), np.concatenate([~flat, flat])
        ),
    }
    if np.any(others):
        scores["others"] = separation(one[mask], one[others])
    return scores
