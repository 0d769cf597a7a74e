"""Heads and eigenvalues, by what is drawn."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from attnchain.plot import plot_heads, plot_spectrum


@pytest.fixture
def ax():
    return Figure().add_subplot()


LAMBDA2 = torch.tensor([[0.1, 0.5, 0.99912], [0.2, 1.0, 0.0]])


def test_heads_are_drawn_layers_down_and_heads_across(ax):
    assert plot_heads(LAMBDA2, (4, 11), ax=ax) is ax
    assert np.array_equal(ax.images[0].get_array(), LAMBDA2.numpy())
    assert ax.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["4", "11"]
    assert ax.get_xlabel() == "head"


def test_every_head_carries_its_number(ax):
    plot_heads(LAMBDA2, (0, 1), ax=ax)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert len(written) == LAMBDA2.numel()
    for (row, column), value in np.ndenumerate(LAMBDA2.numpy()):
        assert abs(float(written[column, row]) - value) <= 0.005


def test_a_head_close_to_one_is_not_rounded_to_one(ax):
    plot_heads(LAMBDA2, (0, 1), ax=ax)
    assert {"0.999", "1.000"} <= {text.get_text() for text in ax.texts}


def test_numbers_stand_out_from_their_field(ax):
    plot_heads(torch.linspace(0, 1, 11)[None], (0,), ax=ax)
    image = ax.images[0]
    for text in ax.texts:
        row, column = round(text.get_position()[1]), round(text.get_position()[0])
        value = image.get_array()[row, column]
        field = image.cmap(image.norm(value))[:3] @ np.array([0.299, 0.587, 0.114])
        letters = 0.0 if text.get_color() == "black" else 1.0
        assert abs(field - letters) > 0.3


def test_eigenvalues_are_drawn_in_the_unit_circle(ax):
    values = torch.tensor([1.0, 0.5 + 0.5j, 0.5 - 0.5j], dtype=torch.complex128)
    assert plot_spectrum(values, ax=ax) is ax
    drawn = ax.collections[0].get_offsets()
    assert np.allclose(drawn, [[1, 0], [0.5, 0.5], [0.5, -0.5]])
    circle = ax.lines[0].get_xydata()
    assert np.allclose(np.hypot(*circle.T), 1)
    assert ax.get_aspect() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("real part", "imaginary part")


def test_new_axes_are_made_where_none_are_given():
    assert (
        plot_heads(LAMBDA2, (0, 1)).figure
        is not plot_spectrum(torch.ones(1, dtype=torch.complex64)).figure
    )
