"""One object of a picture: the one under a point, or the main one."""

from torch import Tensor

from attnchain.checks import check_whole
from attnchain.errors import ArgumentError, GridError
from attnchain.maps import enlarge, otsu_threshold, regions_at, unit_range
from attnchain.markov import propagate
from attnchain.vision.borders import object_mask
from attnchain.vision.main_object import look_for_object
from attnchain.vision.picture_attention import PictureAttention
from attnchain.vision.segmentation import OBJECT_NAMES, ObjectSegmentation

Point = tuple[float, float]


def segment_point(
    attention: PictureAttention, point: Point, *, bounces: int = 1
) -> ObjectSegmentation:
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
        `ObjectSegmentation`.

    Raises:
        ImageError: The point lies outside the picture.
        ArgumentError: The point is no pair of numbers, or bounces below 1 or so many
            that attention is the same everywhere.
    """
    check_whole(bounces, "bounces")
    x, y = as_point(point)
    start = attention.grid.patch_at(x, y, **attention.size)
    near = propagate(attention.out_and_back, start, bounces)
    soft = _soft(attention, near, bounces)
    mask = soft >= min(otsu_threshold(soft), float(soft[int(y), int(x)]))
    return ObjectSegmentation(
        names=OBJECT_NAMES,
        labels=regions_at(mask, [(int(y), int(x))]).long(),
        soft=soft,
        attention=attention,
        start=start,
    )


def segment_object(
    attention: PictureAttention, *, bounces: int = 10
) -> ObjectSegmentation:
    r"""The main object: of all that is object, what the class token sees.

    $f = o\,(1 + t(P^n c))$ with c the class token's attention in the last layer read,
    $t(x) = \tanh((x - \bar x) / 2\sigma_x)$, and o the objectness of the patches,
    which a linear probe fitted on masks tells (`ObjectProbe`). A model without a
    probe, or `replace(attention, objectness=None)`, is read without training:
    $f = t(P^n c) + t(\pm u)$, u the slowest function of a walk between patches of
    like features (what a normalised cut is read from). Of this map `object_mask` takes
    one region, its border moved to that of the picture.

    The confidence estimates the probability that the mask overlaps the true object by
    more than half: from the mean objectness inside the region less that outside;
    without a probe from how far the region stands out of the map and how well it agrees
    with the first bounce alone.

    Args:
        attention: What `read_attention` returned; best of the last layer alone.
        bounces: Number of bounces n.

    Returns:
        `ObjectSegmentation`.

    Raises:
        GridError: The model has no class token.
        ArgumentError: Bounces below 1, or attention is the same everywhere.
    """
    check_whole(bounces, "bounces")
    if not attention.class_rows:
        message = (
            f"{attention.model_name} has no class token to look for the main object "
            "with; give a point instead"
        )
        raise GridError(message)
    found = look_for_object(attention, bounces)
    if found is None:
        raise _the_same(bounces)
    soft = unit_range(enlarge(found.values, **attention.size))
    mask = object_mask(soft, attention.picture, patches=attention.grid.n_patches)
    return ObjectSegmentation(
        names=OBJECT_NAMES,
        labels=mask.long(),
        soft=soft,
        attention=attention,
        confidence=found.confidence,
        objects=found.objects,
    )


def as_point(point: Point, name: str = "point") -> Point:
    """A pair of numbers, as floats; anything else is an ArgumentError."""
    try:
        x, y = point
        return float(x), float(y)
    except (TypeError, ValueError) as error:
        message = f"{name} must be two numbers (x, y), but is {point!r}"
        raise ArgumentError(message) from error


def _soft(attention: PictureAttention, values: Tensor, bounces: int) -> Tensor:
    """Patch values as a map in [0, 1] at picture size."""
    if float(values.max() - values.min()) <= 1e-5 * float(values.max()):
        raise _the_same(bounces)
    return unit_range(enlarge(attention.grid.to_map(values), **attention.size))


def _the_same(bounces: int) -> ArgumentError:
    return ArgumentError(
        f"after {bounces} bounce(s) attention is the same everywhere: the patches "
        "cannot be told apart. Use fewer bounces, or a picture with more in it"
    )
