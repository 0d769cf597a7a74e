import pytest
import torch
from tests.vision import tiny

from attnchain.evaluate import baselines
from attnchain.evaluate.metrics import iou
from attnchain.evaluate.protocols.clicking import (
    Clicked,
    by_nearness,
    click_methods,
    click_through,
    clicks_needed,
    in_session,
)
from attnchain.evaluate.subject import read_subject
from attnchain.vision import segment_point


@pytest.fixture(scope="module")
def subject():
    return read_subject(tiny.picture(), tiny.dinov2(), size=64)


def truth():
    labels = torch.zeros(40, 64, dtype=torch.long)
    labels[8:31, 10:51] = 1
    return labels


def test_the_first_click_is_the_most_interior_pixel():
    clicks = Clicked().with_next(torch.zeros(40, 64).bool(), truth())
    row, column = clicks.positive[0]
    # 12 pixels from the upper and the lower edge of the object, and no nearer a side
    assert row == 19
    assert 21 <= column <= 39
    assert not clicks.negative


def test_the_next_click_goes_to_the_deeper_error():
    mask = torch.zeros(40, 64).bool()
    mask[8:31, 10:51] = True
    mask[12:15, 12:15] = False
    mask[0:7, 52:62] = True
    clicks = Clicked().with_next(mask, truth())
    assert not clicks.positive
    row, column = clicks.negative[0]
    assert row == 3
    assert 55 <= column <= 58


def test_the_edge_of_the_picture_is_an_edge_of_the_error():
    labels = torch.ones(9, 9, dtype=torch.long)
    clicks = Clicked().with_next(torch.zeros(9, 9).bool(), labels)
    assert clicks.positive == ((4, 4),)


def test_no_pixel_is_clicked_twice():
    labels = torch.ones(1, 3, dtype=torch.long)
    clicks, nothing = Clicked(), torch.zeros(1, 3).bool()
    for _ in range(3):
        clicks = clicks.with_next(nothing, labels)
    assert sorted(clicks.positive) == [(0, 0), (0, 1), (0, 2)]
    assert clicks.with_next(nothing, labels) is None


def test_void_is_never_clicked():
    labels = torch.full((9, 9), -1)
    labels[4, 4] = 1
    assert Clicked().with_next(torch.zeros(9, 9).bool(), labels).positive == ((4, 4),)
    assert Clicked().with_next(torch.ones(9, 9).bool(), labels) is None


def test_one_click_by_out_and_back_is_the_point_task(subject, monkeypatch):
    def walk(subject, patch, layers):
        return subject.out_and_back(layers, "lambda2").matrix[patch]

    monkeypatch.setitem(baselines.NEARNESS, "lambda2 walk", walk)
    clicks = Clicked((((19, 30), True),))
    found = by_nearness(subject, clicks, layers=(0, 1), nearness="lambda2 walk")
    expected = segment_point(subject.part((0, 1)), (30, 19)).labels
    assert iou(found, expected) > 0.99


def test_a_session_is_that_of_the_tasks(subject):
    from attnchain.vision.clicks import Clicks

    clicks = Clicked((((19, 30), True), ((9, 12), True), ((35, 60), False)))
    session = Clicks(subject.part((0, 1))).add(30, 19).add(12, 9)
    expected = session.add(60, 35, positive=False).segment().mask("object")
    assert torch.equal(in_session(subject, clicks, layers=(0, 1)), expected)


def test_competing_clicks_divide_the_picture_by_distance(subject):
    clicks = Clicked((((20, 4), True), ((20, 60), False)))
    found = by_nearness(subject, clicks, layers=(0, 1), nearness="picture")
    assert found[:, :8].any()
    assert not found[:, 40:].any()
    assert found[20, 4]
    assert not found[20, 60]


def test_clicking_stops_when_it_is_enough(subject):
    answers = [0.3, 0.7, 0.95, 0.99]
    made = []

    def masker(_, clicks):
        made.append(clicks)
        mask = truth().bool()
        rows = 8 + round(23 * answers[len(made) - 1])
        mask[rows:] = False
        return mask

    reached = click_through(subject, truth(), masker)
    assert len(reached) == 3
    assert reached[-1] >= 0.9
    assert [len(c.positive + c.negative) for c in made] == [1, 2, 3]


def test_clicking_gives_up_after_twenty(subject):
    empty = torch.zeros(40, 64).bool()
    assert click_through(subject, truth(), lambda *_: empty) == [0.0] * 20


def test_clicks_needed_are_twenty_where_the_level_is_not_reached():
    assert clicks_needed([0.2, 0.86, 0.91], 0.85) == 2
    assert clicks_needed([0.2, 0.86, 0.91], 0.9) == 3
    assert clicks_needed([0.2], 0.9) == 20


@pytest.mark.parametrize("method", click_methods(2), ids=lambda m: m.name)
def test_every_method_finds_an_object_around_its_click(subject, method):
    mask = method.run(subject, Clicked((((19, 30), True),)))
    assert mask.shape == (40, 64)
    assert mask[19, 30]
