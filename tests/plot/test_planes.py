"""Maps and labels on the plane of the picture, by what is drawn."""

import sys

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from tests.vision import tiny

from attnchain.plot import plot_labels, plot_map, plot_picture, segment_colors


@pytest.fixture
def ax():
    return Figure().add_subplot()


DRAWN = {
    "picture": lambda **kwargs: plot_picture(tiny.picture(), **kwargs),
    "map": lambda **kwargs: plot_map(torch.rand(3, 4), **kwargs),
    "labels": lambda **kwargs: plot_labels(
        torch.zeros(40, 64, dtype=torch.int64), tiny.picture(), ["rest"], **kwargs
    ),
}


@pytest.fixture(params=DRAWN.values(), ids=DRAWN.keys())
def draw(request):
    return request.param


def test_given_axes_are_drawn_into_and_returned(draw, ax):
    assert draw(ax=ax, title="what it shows") is ax
    assert ax.get_title() == "what it shows"
    assert len(ax.images) == 1
    assert list(ax.get_xticks()) == list(ax.get_yticks()) == []


def test_new_axes_belong_to_no_global_state(draw):
    assert isinstance(draw(), Axes)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_picture_is_drawn_as_it_is(ax):
    picture = tiny.picture()
    plot_picture(picture, ax=ax)
    assert np.array_equal(ax.images[0].get_array(), np.asarray(picture))


def test_a_grey_picture_is_drawn_in_grey_and_not_in_false_colours(ax):
    plot_picture(tiny.picture().convert("L"), ax=ax)
    assert ax.images[0].get_array().shape == (40, 64, 3)


def test_a_map_is_drawn_with_its_values_and_what_they_are(ax):
    values = torch.rand(3, 5, requires_grad=True)
    plot_map(values, ax=ax, label="times the mean")
    assert np.array_equal(ax.images[0].get_array(), values.detach().numpy())
    bar = next(a for a in ax.figure.axes if a is not ax)
    assert "times the mean" in (bar.get_xlabel(), bar.get_ylabel())


def test_labels_are_tinted_in_the_colours_of_the_legend(ax):
    labels = torch.zeros(40, 64, dtype=torch.int64)
    labels[:, 32:] = 1
    labels[20:] = 2
    grey = tiny.Image.new("RGB", (64, 40), (128, 128, 128))
    plot_labels(labels, grey, ["sky", "sea", "sand"], ax=ax)
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["sky", "sea", "sand"]
    shown = np.asarray(ax.images[0].get_array())
    for label, patch in enumerate(legend.get_patches()):
        color = np.array(patch.get_facecolor()[:3])
        tint = shown[labels == label].mean(0)
        distances = [
            np.abs(tint - tint.mean() - (c - c.mean())).sum() for c in segment_colors(3)
        ]
        assert np.array_equal(color, segment_colors(3)[label])
        assert int(np.argmin(distances)) == label


def test_the_picture_shows_through_the_tint(ax):
    plot_labels(torch.zeros(40, 64, dtype=torch.int64), tiny.picture(), ["all"], ax=ax)
    assert np.asarray(ax.images[0].get_array()).std(axis=(0, 1)).min() > 0.01


def test_every_label_needs_a_name(ax):
    labels = torch.ones(40, 64, dtype=torch.int64)
    with pytest.raises((IndexError, ValueError)):
        plot_labels(labels, tiny.picture(), ["only one"], ax=ax)


def test_segment_colours_are_distinct_and_stable():
    colors = segment_colors(16)
    assert colors.shape == (16, 3)
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert len(np.unique(colors.round(6), axis=0)) == 16
    assert np.array_equal(segment_colors(3), colors[:3])
    assert np.allclose(colors[0], to_rgb("#0072B2"))


def test_colours_of_an_index_picture_stay_distinct():
    """As stored in an index PNG: whole numbers, the first forty."""
    stored = (segment_colors(40) * 255).round()
    assert len(np.unique(stored, axis=0)) == 40
