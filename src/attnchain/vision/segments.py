"""Zero-shot segmentation of a picture by its own attention."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.errors import GridError, ShapeError
from attnchain.maps import component, enlarge, otsu_threshold, unit_range
from attnchain.markov import (
    MetastableSets,
    coarse_grained,
    metastable_sets,
    propagate,
)
from attnchain.ranking import TokenRank, token_rank
from attnchain.vision.attention import PictureAttention, read_attention
from attnchain.vision.borders import object_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from attnchain.models import LoadedModel

Mode = Literal["automatic", "point", "foreground"]
Point = tuple[float, float]

DEFAULT_LAYERS = (-2, -1)
"""The last two: measured best for the foreground among all layers."""
MOST_SETS = 24
"""More segments cannot be told apart by colour or in a legend."""
_BOUNCES = 5


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A picture cut into segments, and the chain quantities behind them.

    Attributes:
        mode: "automatic" (metastable sets), "point" or "foreground".
        labels: Segment of every pixel at picture size, `(height, width)`; in the
            modes "point" and "foreground" 1 is the object and 0 the rest.
        maps: Soft maps at picture size in [0, 1], `(segments, height, width)`: one
            membership for each set, or the one map the mask was cut from.
        start: Patch the walk in `bounces` starts from.
        bounces: Where a walker from there is after 1, 2, ... bounces,
            `(bounces, rows, columns)`.
        rank: Incoming TokenRank of the patches.
        sets: The metastable sets, in mode "automatic".
        attention: The chains all of this was read from.
    """

    mode: Mode
    labels: Int[Tensor, "height width"]
    maps: Float[Tensor, "segments height width"]
    start: int
    bounces: Float[Tensor, "bounces rows columns"]
    rank: TokenRank
    sets: MetastableSets | None
    attention: PictureAttention

    def plot(self) -> "Figure":
        """Draws picture, first bounces, TokenRank and segments side by side.

        Returns:
            A matplotlib figure.
        """
        from attnchain.vision.figures import segmentation_figure

        return segmentation_figure(self)


def segment(  # noqa: PLR0913  (the options of the command line)
    picture: "Image",
    *,
    model: "LoadedModel | None" = None,
    point: Point | None = None,
    foreground: bool = False,
    sets: int | None = None,
    layers: Sequence[int] | None = None,
    bounces: int | None = None,
    size: int | None = None,
) -> Segmentation:
    """Cuts a picture into segments without training, from its own attention.

    * By default into the metastable sets of its patches.
    * With `point` into the object under that point and the rest: attention from the
      patch there, out and back.
    * With `foreground` into the main object and the rest: multi-bounce attention to
      what the class token looks at.

    Args:
        picture: A Pillow picture.
        model: What `attnchain.models.load` returned; by default the packaged model.
        point: (x, y) in pixels of the picture.
        foreground: Ask for the main object.
        sets: Number of metastable sets; chosen by the chain when not given.
        layers: Layers to read, counted from 0; by default the last two.
        bounces: Number of bounces: to the class token's view (2 by default) in mode
            "foreground", out and back (1 by default) in mode "point".
        size: Longer side the picture is resized to for the model, in pixels; by
            default 518, and 700 in mode "foreground", which measured best.

    Returns:
        `Segmentation`; its masks have the picture's own size.

    Raises:
        ImageError: The point lies outside the picture.
        ShapeError: Options that exclude each other, bounces below 1 or so many that
            attention is the same everywhere, or sets outside 2..24.
        SiteNotFoundError: The model has no such layer.
        GridError: Too few patches, or no class token for "foreground".
    """
    _check_exclusive(point=point, foreground=foreground or None, sets=sets)
    if bounces is not None and (bounces != int(bounces) or bounces < 1):
        raise ShapeError(f"bounces must be a whole number >= 1, but is {bounces!r}")
    if bounces is not None and point is None and not foreground:
        raise ShapeError("bounces go with a point or the foreground, not with sets")
    if sets is not None and (sets != int(sets) or not 2 <= sets <= MOST_SETS):
        message = f"sets must be a whole number in 2..{MOST_SETS}, but is {sets!r}"
        raise ShapeError(message)
    if model is None:
        from attnchain.models import load

        model = load()
    layers = DEFAULT_LAYERS if layers is None else layers
    if size is None:
        size = 700 if foreground else 518
    attention = read_attention(picture, model, layers=layers, size=size)
    if point is not None:
        return segment_point(attention, point, bounces=bounces or 1)
    if foreground:
        return segment_foreground(attention, bounces=bounces or 2)
    return segment_automatic(attention, sets=sets)


def _check_exclusive(**options: object) -> None:
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        message = f"choose one of {' and '.join(given)}: they exclude each other"
        raise ShapeError(message)


def segment_automatic(
    attention: PictureAttention, *, sets: int | None = None
) -> Segmentation:
    """Metastable sets of the patches as segments.

    The sets are those of `forward_backward(chain)`, where patches belong together
    that attend to the same things; their prevalence and retention are told for the
    attention chain itself. Each set's membership map is enlarged to picture size; a
    pixel belongs to the set of largest membership.

    Args:
        attention: What `read_attention` returned.
        sets: Number of sets; where the eigenvalues drop most when not given.

    Returns:
        `Segmentation` with `sets`, numbered by decreasing stationary mass.
    """
    n = attention.grid.n_patches
    if sets is not None and sets > n:
        raise ShapeError(f"{sets} sets were asked of {n} patches; use a larger size")
    found = metastable_sets(attention.out_and_back, sets)
    read = coarse_grained(attention.chain, found.memberships)
    read = replace(read, eigenvalues=found.eigenvalues)
    maps = enlarge(attention.grid.to_map(read.memberships.T), **attention.size)
    start = int(token_rank(attention.chain).top(1))
    labels = maps.argmax(0)
    return _result(
        attention, "automatic", labels=labels, maps=maps, start=start, sets=read
    )


def segment_point(
    attention: PictureAttention, point: Point, *, bounces: int = 1
) -> Segmentation:
    """The object under a point: what attends to the same things as the patch there.

    $f = S^n e_i$ with S the chain out and back, `forward_backward(chain)`; Otsu's
    threshold, then the connected region around the point. (A plain push from the
    patch drifts to popular tokens, and its mass on the object falls with every
    bounce.)

    Args:
        attention: What `read_attention` returned.
        point: (x, y) in pixels of the picture.
        bounces: Number of times n out and back.

    Returns:
        `Segmentation`.

    Raises:
        ImageError: The point lies outside the picture.
    """
    start = attention.grid.patch_at(*point, **attention.size)
    near = propagate(attention.out_and_back, start, bounces)
    soft = _soft(attention, near, bounces)
    x, y = int(point[0]), int(point[1])
    marked = torch.zeros_like(soft)
    marked[y, x] = 1
    mask = soft >= min(otsu_threshold(soft), float(soft[y, x]))
    mask = component(mask, marked)
    return _result(attention, "point", labels=mask, maps=soft[None], start=start)


def segment_foreground(
    attention: PictureAttention, *, bounces: int = 2
) -> Segmentation:
    """The main object: from where a few bounces lead to what the class token sees.

    $f = P^n c$ with c the class token's attention in the last layer read: the
    expected class attention n bounces later. Of this map `object_mask` takes one
    region, its border moved to that of the picture.

    Args:
        attention: What `read_attention` returned.
        bounces: Number of bounces n.

    Returns:
        `Segmentation`.

    Raises:
        GridError: The model has no class token.
    """
    if not attention.class_rows:
        message = (
            f"{attention.model_name} has no class token to look for the main object "
            "with; give a point instead"
        )
        raise GridError(message)
    seen = attention.class_rows[-1].mean(0)
    start = int(token_rank(attention.chain).top(1))
    for _ in range(bounces):
        seen = attention.chain.pull(seen)
    soft = _soft(attention, seen, bounces)
    mask = object_mask(soft, attention.picture, patches=attention.grid.n_patches)
    return _result(attention, "foreground", labels=mask, maps=soft[None], start=start)


def _soft(attention: PictureAttention, values: Tensor, bounces: int) -> Tensor:
    """Patch values as a map in [0, 1] at picture size."""
    if float(values.max() - values.min()) <= 1e-5 * float(values.max()):
        message = (
            f"after {bounces} bounce(s) attention is the same everywhere: the patches "
            "cannot be told apart. Use fewer bounces, or a picture with more in it"
        )
        raise ShapeError(message)
    return unit_range(enlarge(attention.grid.to_map(values), **attention.size))


def _result(
    attention: PictureAttention,
    mode: Mode,
    *,
    labels: Tensor,
    maps: Tensor,
    start: int,
    sets: MetastableSets | None = None,
) -> Segmentation:
    steps = propagate(attention.chain, start, _BOUNCES, all_bounces=True)[1:]
    return Segmentation(
        mode=mode,
        labels=labels.long(),
        maps=maps,
        start=start,
        bounces=attention.grid.to_map(steps),
        rank=token_rank(attention.chain),
        sets=sets,
        attention=attention,
    )
