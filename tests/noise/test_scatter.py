"""Scattering: shapes of posteriors whose answer is known."""

import math

import pytest
import torch

from attnchain.errors import NotStochasticError, ShapeError
from attnchain.noise import rivals, scattering


def circle(radius, count=360):
    """Distributions over three classes around the uniform one, in a plane."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    u = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(2)
    v = torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64) / math.sqrt(6)
    around = radius * (angle.cos()[:, None] * u + angle.sin()[:, None] * v)
    return 1 / 3 + around


def test_unit_vectors_are_scattered():
    assert scattering(torch.eye(4)) == pytest.approx(1)
    inner = torch.full((20, 4), 0.25)
    assert scattering(torch.cat([torch.eye(4), inner])) == pytest.approx(1)


def test_every_pair_of_classes_mixed_is_scattered_without_anchors():
    """Two points on each edge: the simplex is the only one that small around them."""
    rows = torch.tensor([[a, 1 - a, 0.0] for a in (0.2, 0.8)])
    around = torch.cat([rows.roll(shift, 1) for shift in range(3)])
    assert scattering(around) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("radius", [0.1, 0.2, 0.3])
def test_a_disc_leaves_the_length_of_its_dual(radius):
    """h'x >= 0 for the disc of radius r is |x - 1/3| <= 1 / (3 r)."""
    longest = math.sqrt(1 / 3 + (1 / (3 * radius)) ** 2)
    assert scattering(circle(radius)) == pytest.approx(longest, rel=1e-3)


def test_a_disc_that_touches_all_sides_has_rivals_as_long_as_the_classes():
    touching = circle(0.9999 / math.sqrt(6))
    assert scattering(touching) == pytest.approx(1, abs=1e-3)
    assert rivals(touching) == pytest.approx(1, abs=1e-3)
    assert rivals(torch.cat([torch.eye(3), touching])) == 0


def test_a_segment_leaves_a_direction_open():
    rows = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2]])
    assert scattering(rows) == math.inf


def test_more_posteriors_never_leave_more_open():
    few = circle(0.2, 12)
    assert scattering(torch.cat([few, circle(0.35, 12)])) <= scattering(few) + 1e-6


def test_no_distributions_are_refused():
    with pytest.raises(NotStochasticError, match="posteriors"):
        scattering(torch.ones(3, 3))
    with pytest.raises(ShapeError, match="posteriors"):
        scattering(torch.ones(3))
    with pytest.raises(ShapeError, match="two classes"):
        scattering(torch.ones(3, 1))
