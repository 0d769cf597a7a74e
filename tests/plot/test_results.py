"""The figures that results draw of themselves, by their artists."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests.vision import tiny

from attnchain.errors import ArgumentError, ShapeError
from attnchain.models.dinov2_saliency import DINOV2_SALIENCY
from attnchain.ranking import token_rank
from attnchain.vision import segment

MODES = {
    "sets": {},
    "point": {"point": (20, 11)},
    "object": {"foreground": True},
}
SHAPES = {
    "square": (64, 64),
    "wide": (96, 64),
    "tall": (40, 80),
    "strip": (200, 8),
    "tower": (8, 200),
}


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def result(request, model):
    return segment(tiny.picture(), model=model, size=64, **request.param)


def panels(figure):
    """The axes that hold a picture or map, left to right, without colour bars."""
    return [ax for ax in figure.axes if ax.get_title()]


def drawn(ax):
    return torch.as_tensor(np.asarray(ax.images[0].get_array()))


@pytest.mark.parametrize(("width", "most"), [(3.25, 2), (6.75, 4)])
def test_panels_for_print_stand_in_rows(result, width, most):
    wide, figure = result.plot(), result.plot(width=width)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    drawn_panels = panels(figure)
    titles = [ax.get_title() for ax in panels(wide)]
    assert [ax.get_title() for ax in drawn_panels] == titles
    in_a_row = drawn_panels[0].get_gridspec().ncols
    rows = len({id(ax.get_gridspec()) for ax in drawn_panels})
    assert in_a_row <= most
    assert (rows - 1) * most < len(titles) <= rows * in_a_row
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert max(text.get_fontsize() for text in texts) <= 8
    figure.canvas.draw()
    places = [ax.get_window_extent() for ax in drawn_panels]
    assert all(0 <= place.x0 < place.x1 <= figure.bbox.width for place in places)
    assert all(place.width > 50 * width / in_a_row for place in places)


@pytest.mark.parametrize("width", [3.0, 0, "column"])
def test_a_width_leaves_room_for_two_panels(model, width):
    result = segment(tiny.picture(), model=model, size=64)
    with pytest.raises(ArgumentError, match="width must be"):
        result.plot(width=width)


def test_what_a_mask_comes_from_and_the_mask_stand_side_by_side(result):
    figure = result.plot()
    assert isinstance(figure, Figure)
    first, *middle, last, segments = panels(figure)
    assert np.array_equal(first.images[0].get_array(), np.asarray(tiny.picture()))
    legend = [text.get_text() for text in segments.get_legend().get_texts()]
    assert legend == list(result.legend)
    assert segments.images[0].get_array().shape[:2] == result.labels.shape
    if result.kind == "sets":
        assert "TokenRank" in last.get_title()
    else:
        assert "map" in last.get_title()
        torch.testing.assert_close(drawn(last), result.maps[0], check_dtype=False)
    attention = result.attention
    if result.start is None:
        (seen,) = middle
        row = attention.grid.to_map(attention.class_rows[-1].mean(0))
        expected = row / row.mean()
        torch.testing.assert_close(drawn(seen), expected, check_dtype=False)
        return
    assert 2 <= len(middle) <= 5
    for ax, bounce in zip(middle, attention.bounces(result.start, 5), strict=False):
        assert "bounce" in ax.get_title()
        expected = bounce * attention.grid.n_patches
        torch.testing.assert_close(drawn(ax), expected, check_dtype=False)


def test_the_start_of_a_walk_is_marked(result):
    ax = panels(result.plot())[0]
    if result.start is None:
        assert not ax.lines
        return
    x, y = result.attention.patch_centre(result.start)
    assert ax.lines
    for line in ax.lines:
        assert np.allclose(line.get_xydata(), [[x, y]])


def test_the_model_and_what_it_is_stand_above(result):
    title = result.plot().get_suptitle()
    assert "tiny" in title
    assert "Random weights." in title
    assert f"layers {', '.join(map(str, result.attention.layers))}:" in title


def test_figures_belong_to_no_global_state(result):
    assert result.plot() is not result.plot()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def texts(figure):
    """Extents of titles, labels and legends in pixels."""
    renderer = figure.canvas.get_renderer()
    found = [figure._suptitle, *(ax.title for ax in panels(figure))]
    found += [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    found += [ax.xaxis.label for ax in figure.axes if ax.get_xlabel()]
    found += [ax.yaxis.label for ax in figure.axes if ax.get_ylabel()]
    return [artist.get_window_extent(renderer) for artist in found]


def overlap(a, b):
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return min(width, height)


@pytest.mark.parametrize("sets", [2, 5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_texts_lie_inside_the_figure_and_not_on_each_other(model, shape, sets):
    described = replace(model, name=DINOV2_SALIENCY.name, note=DINOV2_SALIENCY.note)
    figure = segment(tiny.picture(*shape), model=described, sets=sets, size=64).plot()
    figure.set_dpi(110)
    FigureCanvasAgg(figure).draw()
    boxes = texts(figure)
    for box in boxes:
        assert min(box.x0, box.y0) >= -3  # pixels
        assert box.x1 <= figure.bbox.width + 3
        assert box.y1 <= figure.bbox.height + 3
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert max(overlap(a, b) for a, b in pairs) <= 2


def test_a_rank_is_drawn_relative_to_the_mean_patch(attention):
    rank = token_rank(attention.chain)
    ax = rank.plot(attention.grid)
    drawn = np.asarray(ax.images[0].get_array())
    assert drawn.shape == (5, 8)
    assert np.isclose(drawn.mean(), 1)
    shares = attention.grid.to_map(rank.distribution).numpy()
    assert np.allclose(drawn / drawn.sum(), shares)
    assert ax.get_title() == "TokenRank, incoming"


def test_a_rank_is_drawn_into_given_axes(attention):
    ax = Figure().add_subplot()
    rank = token_rank(attention.chain, direction="outgoing")
    assert rank.plot(attention.grid, ax=ax) is ax
    assert ax.get_title() == "TokenRank, outgoing"


def test_a_batch_of_ranks_is_not_one_picture(attention):
    with pytest.raises(ShapeError, match="batch"):
        token_rank(attention.heads[0]).plot(attention.grid)
