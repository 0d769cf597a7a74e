"""Marks on flat shapes: exact objects, competition, undo, refusals."""

from functools import partial

import pytest
import torch
from tests.methods.pictures import PATCH, flat_attention, overlap, true_mask
from tests.vision.promises import assert_keeps_promises

from attnchain.errors import ArgumentError, ImageError
from attnchain.methods.m2n2 import segment_nearest
from attnchain.vision.clicks import Clicks

RULES = {
    "ours": Clicks.segment,
    "m2n2": segment_nearest,
    "m2n2 searched": partial(segment_nearest, thresholds="searched"),
}
INSIDE = {"a": (12, 12), "b": (60, 32), "c": (8, 40), ".": (36, 36)}


@pytest.fixture
def session():
    return Clicks(flat_attention())


@pytest.mark.parametrize("cut", RULES.values(), ids=RULES.keys())
def test_a_segmentation_keeps_its_promises(session, cut, tmp_path):
    marked = session.add(*INSIDE["a"]).add(*INSIDE["."], positive=False)
    assert_keeps_promises(cut(marked), tmp_path)


def at_patches(values):
    """What lies at the middle of every patch."""
    return values[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]


@pytest.mark.parametrize("cut", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("letter", "abc")
def test_one_click_finds_a_separate_shape(session, cut, letter):
    found = cut(session.add(*INSIDE[letter]))
    assert torch.equal(at_patches(found.mask("object")), at_patches(true_mask(letter)))
    least = 0.8 if cut is RULES["m2n2 searched"] else 0.85  # whole patches are right
    assert overlap(found.mask("object"), true_mask(letter)) > least


@pytest.mark.parametrize("cut", RULES.values(), ids=RULES.keys())
def test_two_clicks_find_two_shapes(session, cut):
    both = cut(session.add(*INSIDE["a"]).add(*INSIDE["b"]))
    assert torch.equal(at_patches(both.mask("object")), at_patches(true_mask("ab")))


def test_background_clicks_take_away_what_looks_like_them():
    """With little contrast the first click takes more than the shape."""
    one = Clicks(flat_attention(contrast=0.3, closeness=0.7)).add(*INSIDE["a"])
    more = one.add(*INSIDE["."], positive=False).add(*INSIDE["c"], positive=False)
    truth = true_mask("a")
    before, after = (overlap(s.segment().mask("object"), truth) for s in (one, more))
    assert after > before + 0.1


@pytest.mark.parametrize("cut", RULES.values(), ids=RULES.keys())
def test_without_colour_space_is_divided(cut):
    session = Clicks(flat_attention(contrast=0.0, closeness=6.0)).add(8, 24)
    mask = cut(session.add(56, 24, positive=False)).mask("object")
    columns = at_patches(mask).float().mean(0)
    assert float(columns[:2].min()) > 0.6
    assert float(columns[5:].max()) == 0


@pytest.mark.parametrize("cut", RULES.values(), ids=RULES.keys())
def test_marked_pixels_keep_their_label(session, cut):
    session = session.add(*INSIDE["a"]).add(13, 13, positive=False)
    mask = cut(session).mask("object")
    assert bool(mask[12, 12])
    assert not bool(mask[13, 13])


def test_a_corrected_patch_ends_on_its_own_side(session):
    """A click where the proposal says object, but the user says not."""
    one = session.add(*INSIDE["a"])
    wrong = (28, 4)
    assert float(one.segment().maps[0, wrong[1], wrong[0]]) > 0
    two = one.add(*wrong, positive=False).segment()
    assert float(two.maps[0, wrong[1], wrong[0]]) < 0


def test_the_correction_equals_dense_regression(session):
    attention = session.attention
    chain = attention.chain.to_dense().double()
    kernel = chain / chain.sum(0) @ chain.T
    marked = session.add(*INSIDE["a"]).add(*INSIDE["."]).add(4, 28, positive=False)
    one, three = (
        torch.from_numpy(s._odds(s.marks)) for s in (session.add(*INSIDE["a"]), marked)
    )
    patches = [mark.patches[0] for mark in marked.marks]
    sign = torch.tensor([1.0, 1.0, -1.0]).double()
    seen = kernel[patches[0]]
    floor = 1e-2 * seen.max()
    theta = (seen[patches[0]] + floor) / one[12, 12].exp() - floor
    before = ((seen[patches] + floor) / (theta + floor)).log()
    missing = sign * (0.5 - sign * before).clamp_min(0)
    columns = kernel[:, patches] / kernel[patches, patches]
    matrix = columns[patches] + 0.1 * torch.eye(3).double()
    moved = columns @ torch.linalg.solve(matrix, 1.1 * missing)
    difference = three - one
    grid = attention.grid
    for patch in (0, 9, patches[2]):
        row, column = divmod(patch, grid.columns)
        corner = difference[row * 8 + 3 : row * 8 + 5, column * 8 + 3 : column * 8 + 5]
        assert abs(float(corner.mean() - moved[patch])) < 0.1 * float(moved.abs().max())


def test_a_session_grown_and_one_from_its_marks_are_the_same(session):
    grown = session.add(60, 32, positive=False).add(*INSIDE["a"]).add(4, 44)
    at_once = Clicks(session.attention, grown.marks)
    assert torch.equal(grown.segment().maps, at_once.segment().maps)


def test_a_mark_on_its_own_side_changes_nothing(session):
    one = session.add(*INSIDE["a"])
    two = one.add(20, 12).add(60, 32, positive=False)
    assert torch.equal(one.segment().labels, two.segment().labels)


def test_a_stroke_marks_every_patch_on_its_way(session):
    stroke = session.scribble([(4, 4), (28, 4), (28, 20)])
    assert stroke.marks[0].patches == (0, 1, 2, 3, 11, 19)
    assert overlap(stroke.segment().mask("object"), true_mask("a")) > 0.85


def test_a_box_holds_the_object(session):
    found = session.box(-5, -5, 40, 30).segment()
    assert overlap(found.mask("object"), true_mask("a")) > 0.8
    assert not bool(found.mask("object")[:, 40:].any())


def test_a_later_box_replaces_the_first(session):
    twice = session.box(0, 0, 9, 9).add(60, 30).box(40, 10, 64, 48)
    assert [mark.box is None for mark in twice.marks] == [True, False]
    assert bool(twice.segment().mask("object")[32, 60])


def test_a_box_smaller_than_a_patch_has_the_patch_in_its_middle(session):
    assert session.box(9, 9, 11, 11).marks[0].patches == (9,)


def test_marks_outside_a_box_add_to_it(session):
    found = session.box(0, 0, 34, 26).add(*INSIDE["b"]).segment()
    assert bool(found.mask("object")[32, 60])


def test_sessions_never_change(session):
    one = session.add(*INSIDE["a"])
    two = one.add(*INSIDE["b"], positive=False)
    assert (len(session.marks), len(one.marks), len(two.marks)) == (0, 1, 2)
    assert two.undo().marks == one.marks
    assert torch.equal(
        two.undo().segment().mask("object"), one.segment().mask("object")
    )


def test_there_is_nothing_to_undo(session):
    with pytest.raises(ArgumentError, match="no mark to undo"):
        session.undo()


@pytest.mark.parametrize("marked", [False, True])
def test_an_object_needs_a_positive_mark(session, marked):
    session = session.add(1, 1, positive=False) if marked else session
    with pytest.raises(ArgumentError, match="no positive mark"):
        session.segment()


def test_boxes_have_no_markov_map(session):
    with pytest.raises(ArgumentError, match="knows no boxes"):
        segment_nearest(session.box(0, 0, 30, 30))


def test_thresholds_of_another_name(session):
    with pytest.raises(ArgumentError, match="thresholds must be 'otsu' or 'searched'"):
        segment_nearest(session.add(*INSIDE["a"]), thresholds="edges")


@pytest.mark.parametrize("mark", [("add", "a", 3), ("box", 0, None, 9, 9)], ids=str)
def test_what_are_no_pixels_is_refused(session, mark):
    with pytest.raises(ArgumentError, match="two numbers"):
        getattr(session, mark[0])(*mark[1:])


def test_an_empty_stroke(session):
    with pytest.raises(ArgumentError, match="at least one point"):
        session.scribble([])


def test_a_click_outside_the_picture(session):
    with pytest.raises(ImageError, match="outside the picture"):
        session.add(64, 3)


@pytest.mark.parametrize("box", [(9, 9, 9, 20), (70, 0, 90, 10), (30, 5, 10, 9)])
def test_an_empty_box(session, box):
    with pytest.raises(ImageError, match="covers no pixel"):
        session.box(*box)
