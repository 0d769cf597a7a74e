"""From patch values to picture size: enlarging, thresholds, connected regions."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnchain.checks import check_finite


def enlarge(
    maps: Float[Tensor, "*batch rows columns"], *, width: int, height: int
) -> Float[Tensor, "*batch height width"]:
    """Bilinear enlargement of patch maps to the picture's own size.

    Args:
        maps: Values of the patches; a patch's value belongs to its centre.
        width: Picture width in pixels.
        height: Picture height in pixels.

    Returns:
        The enlarged maps.
    """
    flat = maps.reshape(-1, *maps.shape[-2:])
    large = flat.new_empty(len(flat), height, width)
    for rows, strip in _strips(flat, width=width, height=height):
        large[:, rows] = strip
    return large.view(*maps.shape[:-2], height, width)


def largest(
    maps: Float[Tensor, "maps rows columns"], *, width: int, height: int
) -> Int[Tensor, "height width"]:
    """Which of several patch maps is largest at every pixel of the picture.

    It is `enlarge(maps, ...).argmax(0)`, made in strips, so that no map is ever stored
    at the picture's size.

    Args:
        maps: Values of the patches.
        width: Picture width in pixels.
        height: Picture height in pixels.

    Returns:
        Index of the map, the first one where two are equal.
    """
    found = torch.empty(height, width, dtype=torch.long, device=maps.device)
    for rows, strip in _strips(maps, width=width, height=height):
        found[rows] = strip.argmax(0)
    return found


def shared_out(
    shares: Float[Tensor, "*batch rows columns"], *, rows: int, columns: int
) -> Float[Tensor, "*batch rows columns"]:
    """Shares of the cells of one grid, on another grid of the same picture.

    Each cell gives to those it overlaps by the area of the overlap, so that sums stay.

    Args:
        shares: What lies in each cell.
        rows: Rows of the other grid.
        columns: Its columns.

    Example:
        >>> shared_out(torch.tensor([[2.0, 4.0]]), rows=2, columns=4)
        tensor([[0.5000, 0.5000, 1.0000, 1.0000],
                [0.5000, 0.5000, 1.0000, 1.0000]])
    """
    down = _overlaps(shares.shape[-2], rows).to(shares)
    across = _overlaps(shares.shape[-1], columns).to(shares)
    return down.mT @ shares @ across


def _overlaps(before: int, after: int) -> Float[Tensor, "before after"]:
    """Which share of each of equal parts lies in each of other equal parts."""
    edges, others = (
        torch.linspace(0, 1, n + 1, dtype=torch.float64) for n in (before, after)
    )
    end = torch.minimum(edges[1:, None], others[None, 1:])
    start = torch.maximum(edges[:-1, None], others[None, :-1])
    return (end - start).clamp_min(0) * before


_STRIP = 2**22
"""Values enlarged at a time."""


def _strips(maps: Tensor, *, width: int, height: int) -> Iterator[tuple[slice, Tensor]]:
    """The enlarged maps, some rows of pixels after the other."""
    rows = maps.shape[-2]
    wide = torch.nn.functional.interpolate(maps[None], (rows, width), mode="bilinear")
    place = (
        torch.arange(height, device=maps.device).double() + 0.5
    ) * rows / height - 0.5
    place = place.clamp(0, rows - 1)
    above = place.floor().long()
    below = (above + 1).clamp_max(rows - 1)
    share = (place - above).to(maps.dtype)[:, None]
    step = max(1, _STRIP // (max(1, len(maps)) * width))
    for start in range(0, height, step):
        part = slice(start, start + step)
        first, second = wide[0][:, above[part]], wide[0][:, below[part]]
        yield part, torch.lerp(first, second, share[part].expand_as(first))


def unit_range(values: Tensor) -> Tensor:
    """Values shifted and scaled to [0, 1]; zeros where all are equal."""
    low, high = values.min(), values.max()
    return (values - low).div_(high - low) if high > low else torch.zeros_like(values)


def otsu_threshold(values: Float[Tensor, "..."], *, bins: int = 256) -> float:
    """The threshold that separates two classes best.

    Maximises the variance between the classes below and above it.

    Args:
        values: Any number of values in [0, 1].
        bins: Histogram resolution.

    Returns:
        A threshold in [0, 1].

    Sources:
        Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    parts = values.flatten().split(_STRIP)
    counts = sum(
        (torch.histc(part.double().cpu(), bins, 0, 1) for part in parts),
        torch.zeros(bins, dtype=torch.float64),
    )
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    below = counts.cumsum(0)
    above = counts.sum() - below
    mass = (counts * centres).cumsum(0)
    mean_below = mass / below.clamp_min(1)
    mean_above = (mass[-1] - mass) / above.clamp_min(1)
    between = below * above * (mean_below - mean_above) ** 2
    return float((between.argmax() + 1) / bins)


def otsu_in_range(values: Float[Tensor, "..."]) -> float:
    """Otsu's threshold of values of any range, from their smallest to their largest."""
    low, high = float(values.min()), float(values.max())
    return low + (high - low) * otsu_threshold(unit_range(values))


def component(
    mask: Bool[Tensor, "height width"], weight: Float[Tensor, "height width"]
) -> Bool[Tensor, "height width"]:
    """The connected region of a mask that carries the most weight.

    Args:
        mask: Pixels in question.
        weight: Values >= 0 to add up in each region.

    Returns:
        One 4-connected region; empty where the mask is.
    """
    regions, sums = weighed_regions(mask, weight)
    if not len(sums):
        return mask
    return (regions == 1 + int(sums.argmax())).to(mask.device)


def weighed_regions(
    mask: Bool[Tensor, "height width"], weight: Float[Tensor, "height width"]
) -> tuple[Int[Tensor, "height width"], Float[Tensor, " regions"]]:
    """The 4-connected regions of a mask, and the weight that each carries.

    Args:
        mask: Pixels in question.
        weight: Values >= 0 to add up in each region.

    Returns:
        Number of the region of every pixel, from 1, 0 outside; and the sums, from
        region 1 on.
    """
    from scipy import ndimage

    labels, count = ndimage.label(mask.cpu().numpy())  # pyright: ignore
    rows = max(1, _STRIP // mask.shape[1])
    regions = torch.from_numpy(labels)
    sums = torch.zeros(count + 1, dtype=torch.float64)
    for part, values in zip(regions.split(rows), weight.split(rows), strict=True):
        heavy = values.flatten().double().cpu()
        sums += torch.bincount(part.flatten(), heavy, minlength=count + 1)
    return regions, sums[1:]


def regions_at(
    mask: Bool[Tensor, "height width"], pixels: Sequence[tuple[int, int]]
) -> Bool[Tensor, "height width"]:
    """The connected regions of a mask that hold one of some pixels.

    Args:
        mask: Pixels in question.
        pixels: (row, column) of each; those outside the mask count for nothing.

    Returns:
        4-connected regions.
    """
    from scipy import ndimage

    labels = torch.from_numpy(ndimage.label(mask.cpu().numpy())[0])  # pyright: ignore
    held = sorted({int(labels[pixel]) for pixel in pixels} - {0})
    return torch.isin(labels, torch.tensor(held)).to(mask.device)


def parts(
    labels: Int[Tensor, "height width"], *, least: float
) -> Bool[Tensor, "parts height width"]:
    """What of some labels stands apart; every labelled pixel lies in one part.

    Args:
        labels: Number of the label of each pixel, from 1; 0 for the rest.
        least: Pixels of the smallest part; smaller regions join the part nearest to
            them. Where all are smaller there is one part.

    Returns:
        The 4-connected regions of one label with what joined them, largest first;
        none where nothing is labelled.
    """
    from scipy import ndimage

    regions, total = torch.zeros_like(labels, device="cpu"), 0
    for label in range(1, int(labels.max()) + 1):
        found, count = ndimage.label((labels == label).cpu().numpy())  # pyright: ignore
        numbers = torch.from_numpy(found).long()
        regions += torch.where(numbers > 0, numbers + total, 0)
        total += int(count)
    sizes = regions.flatten().bincount()
    sizes[0] = 0
    kept = (sizes >= max(least, 1)).nonzero()[:, 0]
    mask = labels > 0
    if len(kept) < 2:
        return mask[None][: int(mask.any())]
    outside = (~torch.isin(regions, kept)).numpy()
    _, nearest = ndimage.distance_transform_edt(outside, return_indices=True)  # pyright: ignore
    joined = torch.where(mask.cpu(), regions[tuple(nearest)], 0)
    order = joined.flatten().bincount(minlength=len(sizes))[kept]
    order = kept[order.argsort(descending=True, stable=True)]
    return (joined == order[:, None, None]).to(mask.device)


def object_region(soft: Float[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """The region of a map taken for the one object.

    Of the regions above Otsu's threshold the heaviest. While it reaches from the left
    edge of the picture to the right one, it is a backdrop (a crowd, a hedge) with the
    object in it: Otsu's threshold of the values above then takes its place, up to
    three times.

    Args:
        soft: Values in [0, 1], large on the object.

    Returns:
        One 4-connected region; empty where all values are equal.

    Raises:
        NotStochasticError: Values are infinite or not numbers.
    """
    check_finite(soft, "the map")
    if soft.max() == soft.min():
        return torch.zeros_like(soft, dtype=torch.bool)
    threshold = otsu_threshold(soft)
    region = component(soft > threshold, soft)
    for _ in range(3):
        if not (region[:, 0].any() and region[:, -1].any()):
            break
        threshold = otsu_in_range(soft[soft > threshold])
        raised = component(soft > threshold, soft)
        if not raised.any():
            break
        region = raised
    return region
