"""M2N2: segments by clicks that compete by their Markov maps (arXiv 2411.10411).

`segment_nearest` cuts the object of a click session. A Markov map says how soon a walk
from a seed fills a token: `sharpen` and `balance` prepare the chain, `markov_map` times
the walk and `flooded` removes look-alikes that are not connected to the seed.

Sources:
    Karmann and Urfalioglu, Repurposing Stable Diffusion Attention for Training-Free
    Unsupervised Interactive Segmentation (M2N2), arXiv 2411.10411. By default Otsu's
    threshold stands for its search along edges of the map. Its maps are enlarged by
    joint bilateral upsampling and flooded by pixels; ours are flooded by patches and
    enlarged bilinearly.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from attnchain.capturing import TokenGrid
from attnchain.checks import check_choice, check_number, check_positive, check_whole
from attnchain.errors import ArgumentError, ConvergenceError
from attnchain.maps import enlarge, otsu_in_range, regions_at
from attnchain.markov import Start, starting_distribution
from attnchain.operators import AbstractTransition, DenseTransition, normalize_rows
from attnchain.vision import Clicks, ClickSegmentation

Thresholds = Literal["otsu", "searched"]

_TEMPERATURE: Final = 0.65
_FLOOR: Final = 1e-2
_LARGEST_AREA: Final = 0.4
_LEVELS: Final = 160


def segment_nearest(
    session: Clicks, *, thresholds: Thresholds = "otsu"
) -> ClickSegmentation:
    """The object by M2N2's rule: a pixel belongs to its nearest mark.

    Every mark has its Markov map in the sharpened (T = 0.65), balanced chain, flooded
    from the mark and divided by a threshold. Beyond one, a pixel is background.

    Args:
        session: Marks without a box.
        thresholds: "otsu", Otsu's in the logarithm of the map, lowered until no
            opposite mark is inside; or "searched", as published: see
            `searched_threshold`.

    Returns:
        `ClickSegmentation`, to compare with `Clicks.segment`.

    Raises:
        ArgumentError: No positive mark, a box, or unknown thresholds.
        ConvergenceError: The chain could not be balanced.
    """
    check_choice(thresholds, get_args(Thresholds), "thresholds")
    levels = _otsu_levels if thresholds == "otsu" else _searched_levels
    return session.cut(partial(_competition, levels=levels))


def _competition(
    session: Clicks, levels: Callable[[Clicks], list[Tensor]]
) -> Float[Tensor, "height width"]:
    """How much nearer than one the nearest mark is; regions without one left out."""
    if any(mark.box for mark in session.marks):
        message = "M2N2's rule knows no boxes; use Clicks.segment, or mark points"
        raise ArgumentError(message)
    distances: dict[bool, Tensor] = {}
    for mark, scaled in zip(session.marks, levels(session), strict=True):
        known = distances.get(mark.positive, scaled)
        distances[mark.positive] = torch.minimum(known, scaled)
    reach = torch.ones_like(distances[True])
    rival = torch.minimum(distances.get(False, reach), reach)
    score = rival - distances[True]
    held = [(y, x) for mark in session.marks if mark.positive for x, y in mark.pixels]
    return torch.where(regions_at(score >= 0, held), score, -score.abs())


def _floods(session: Clicks) -> Iterator[tuple[Tensor, Tensor]]:
    """The Markov map of every mark, and that map flooded."""
    chain = balance(sharpen(session.attention.chain, _TEMPERATURE))
    for mark in session.marks:
        times = markov_map(chain, mark.patches)
        yield times, flooded(times, session.attention.grid, mark.patches)


def _otsu_levels(session: Clicks) -> list[Float[Tensor, "height width"]]:
    """The flooded map of every mark in the logarithm, divided by Otsu's threshold."""
    grid, size = session.attention.grid, session.attention.size
    scaled: list[Tensor] = []
    for mark, (_, flood) in zip(session.marks, _floods(session), strict=True):
        level = enlarge(grid.to_map(flood.log1p()), **size)
        _, others = _at_marks(session, level, mark.positive)
        own = [float(level[y, x]) for x, y in mark.pixels]
        threshold = max([min([otsu_in_range(level), *others]), *own, _FLOOR])
        scaled.append(level / threshold)
    return scaled


def _searched_levels(session: Clicks) -> list[Float[Tensor, "height width"]]:
    """The flooded map of every mark, divided by the threshold that was searched."""
    grid, size = session.attention.grid, session.attention.size
    scaled: list[Tensor] = []
    for mark, (times, flood) in zip(session.marks, _floods(session), strict=True):
        maps = grid.to_map(torch.stack([times, flood]))
        unflooded, level = enlarge(maps, **size)
        same, others = _at_marks(session, level, mark.positive)
        threshold = searched_threshold(level, unflooded, same, others)
        scaled.append(level / max(threshold, _FLOOR))
    return scaled


def _at_marks(
    session: Clicks, level: Tensor, positive: bool
) -> tuple[list[float], list[float]]:
    """Values at the marks of the same sign, and at those of the opposite one."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for mark in session.marks:
        values = [float(level[y, x]) for x, y in mark.pixels]
        found[mark.positive is positive] += values
    return found[True], found[False]


def searched_threshold(
    level: Float[Tensor, "height width"],
    times: Float[Tensor, "height width"],
    same: Sequence[float],
    others: Sequence[float],
) -> float:
    """M2N2's threshold: the region with the steepest border that agrees with the marks.

    Of the levels that hold up to 0.4 of the picture, the one of the largest product of
    the mean steepness of the map (Sobel) along the region's inner border and the share
    of marks of the same sign inside, none of the opposite sign being inside.

    Args:
        level: The flooded map of one mark.
        times: Its Markov map, of which the steepness is taken.
        same: Values of `level` at the marks of the same sign.
        others: Values at those of the opposite sign.

    Returns:
        The threshold; the smallest level where no region agrees.
    """
    shares = torch.linspace(0, _LARGEST_AREA, _LEVELS + 1)[1:]
    ordered = level.flatten().sort().values
    levels = ordered[(shares * (len(ordered) - 1)).long()]
    around = functional.max_pool2d(level[None], 3, 1, 1)[0]
    enters = torch.bucketize(level, levels).flatten()
    leaves = torch.bucketize(around, levels).flatten()
    steepness = _steepness(times).flatten()
    ones = torch.ones_like(steepness)

    def on_border(weights: Tensor) -> Tensor:
        change = torch.zeros(_LEVELS + 1).to(weights)
        change.index_add_(0, enters, weights).index_add_(0, leaves, -weights)
        return change.cumsum(0)[:-1]

    inside = torch.bucketize(levels, ordered, right=True)
    small = inside <= _LARGEST_AREA * len(ordered)
    mean = on_border(steepness) / on_border(ones).clamp_min(1)
    agree = (torch.tensor(same)[:, None].to(levels) <= levels).float().mean(0)
    free = (torch.tensor(others)[:, None].to(levels) > levels).all(0)
    return float(levels[(mean * agree * free * small).argmax()])


def _steepness(values: Float[Tensor, "height width"]) -> Tensor:
    """Length of Sobel's gradient."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).to(values)
    padded = functional.pad(values[None, None], (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, torch.stack([across, across.T])[:, None]).norm(
        dim=1
    )[0]


def sharpen(chain: AbstractTransition, temperature: float) -> DenseTransition:
    r"""Powers of the probabilities, rows renormalised: $P_{ij}^{1/T}$ up to scale.

    Args:
        chain: One chain or a batch; its matrix is stored.
        temperature: T > 0; below 1 the likely steps gain, above 1 they lose.

    Returns:
        The sharpened chain.

    Raises:
        ArgumentError: The temperature is not positive.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.8, 0.2], [0.5, 0.5]]))
        >>> sharpen(two, 0.5).to_dense()
        tensor([[0.9412, 0.0588],
                [0.5000, 0.5000]])
    """
    check_positive(temperature, "temperature")
    return DenseTransition(normalize_rows(chain.to_dense() ** (1 / temperature)))


def balance(
    chain: AbstractTransition, *, tolerance: float = 1e-2, max_rounds: int = 1000
) -> DenseTransition:
    r"""The doubly stochastic chain $A = \mathrm{diag}(r) P\, \mathrm{diag}(c)$.

    Columns and rows are scaled in turn (iterative proportional fitting, Sinkhorn and
    Knopp) until columns sum to one as well: pi becomes uniform and no token attracts
    more walkers than another.

    Args:
        chain: One chain; its matrix is stored.
        tolerance: Largest deviation of a column sum from one.
        max_rounds: Rounds before giving up.

    Returns:
        The balanced chain; rows sum to one, columns within the tolerance.

    Raises:
        ArgumentError: A batch, or a tolerance or number of rounds not above zero.
        ConvergenceError: Zeros in the matrix stand in the way, or slow convergence;
            carries the unfinished chain.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
        >>> balance(two, tolerance=1e-6).to_dense()
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    if chain.batch_shape:
        raise ArgumentError(f"balance takes one chain, but got {chain!r}; mix it first")
    check_positive(tolerance, "tolerance")
    check_whole(max_rounds, "max_rounds")
    matrix = chain.to_dense().double()
    rows = columns = matrix.new_ones(chain.n_states)
    error = float("inf")
    for _ in range(max_rounds):
        columns = 1 / (rows @ matrix)
        rows = 1 / (matrix @ columns)
        error = float((columns * (rows @ matrix) - 1).abs().max())
        if not error > tolerance:
            break
    balanced = rows[:, None] * matrix * columns
    if not error <= tolerance:
        message = (
            f"after {max_rounds} rounds a column sum is still off by {error:.2g} "
            f"(tolerance {tolerance:g}); damp the chain, sharpen it less, or allow more"
        )
        raise ConvergenceError(message, balanced)
    return DenseTransition(balanced.to(chain.dtype))


def markov_map(
    chain: AbstractTransition,
    start: Start,
    *,
    threshold: float = 0.3,
    limit: int = 1000,
) -> Float[Tensor, " n"]:
    r"""Markov map: the bounce at which a token's share passes a threshold.

    $s_0$ is the start divided by its largest entry, $s_t = s_{t-1} P$ again divided by
    its largest entry, and the map the first t with $s_t(i) > \tau$, interpolated
    between t - 1 and t. Not a hitting time, which would count first visits.

    Args:
        chain: One chain, balanced for M2N2's map.
        start: See `propagate`.
        threshold: tau in (0, 1).
        limit: Bounces after which the rest is given up, and their value.

    Returns:
        Times, 0 at the start.

    Raises:
        ArgumentError: A batch, a threshold outside (0, 1), or no positive limit.

    Sources:
        M2N2. The first bounce is interpolated as if every token had started at tau
        below its end, 1 - tau being the whole way.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> block = torch.full((2, 2), 0.5)
        >>> markov_map(as_transition(torch.block_diag(block, block)), 0, limit=9)
        tensor([0., 0., 9., 9.])
    """
    check_number(threshold, "threshold")
    check_whole(limit, "limit")
    if chain.batch_shape or not 0 < threshold < 1:
        message = (
            "markov_map takes one chain and a threshold in (0, 1), but got "
            f"{chain!r} and {threshold!r}"
        )
        raise ArgumentError(message)
    share = starting_distribution(chain, start)
    share = share / share.max()
    times = torch.full_like(share, float(limit)).masked_fill(share > threshold, 0.0)
    waiting = share <= threshold
    for step in range(1, limit):
        if not bool(waiting.any()):
            break
        before, share = share, chain.push(share)
        share = share / share.max()
        way = (share - before) if step > 1 else torch.full_like(share, 1 - threshold)
        arrived = waiting & (share > threshold)
        exact = step - (share - threshold) / way
        times = torch.where(arrived, exact, times)
        waiting = waiting & ~arrived
    return times


def flooded(
    times: Float[Tensor, " n"], grid: TokenGrid, seeds: tuple[int, ...]
) -> Float[Tensor, " n"]:
    """The level a flood from the seeds must reach to get to each patch.

    Minimum, over paths of neighbouring patches from a seed, of the largest value on
    the path: look-alikes behind a border get the height of the border.

    Args:
        times: One value >= 0 for each patch.
        grid: Layout of the patches.
        seeds: Patches the flood starts from.

    Returns:
        Levels, at least the times.

    Sources:
        M2N2; minimax paths are paths of a minimum spanning
        tree (Hu, Oper. Res. 9, 1961).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    n = len(times)
    place = torch.arange(n).view(grid.rows, grid.columns)
    pairs = torch.cat(
        [
            torch.stack([place[:, :-1].flatten(), place[:, 1:].flatten()]),
            torch.stack([place[:-1].flatten(), place[1:].flatten()]),
            torch.stack([torch.full((len(seeds),), n), torch.tensor(seeds)]),
        ],
        1,
    ).numpy()
    height = torch.cat([times.double().cpu(), torch.zeros(1)]).numpy()
    edges = height[pairs].max(0) + 1.0  # zero would mean: no edge
    tree = minimum_spanning_tree(coo_array((edges, pairs), shape=(n + 1, n + 1)))
    order, parents = breadth_first_order(tree, n, directed=False)
    levels = height.copy()
    for patch in order[1:]:
        levels[patch] = max(levels[patch], levels[parents[patch]])
    return torch.from_numpy(levels[:n]).to(times)
