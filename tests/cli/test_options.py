"""How the text of options is read."""

import pytest
import typer

from attnchain.cli.options import parse_layers, parse_prompt, parse_sets
from attnchain.vision import Prompt


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        (None, None),
        ("3", (3,)),
        ("9-11", (9, 10, 11)),
        ("5-5", (5,)),
        ("3,5", (3, 5)),
        ("0-2, 7", (0, 1, 2, 7)),
        ("-1", (-1,)),
        ("-2,-1", (-2, -1)),
    ],
)
def test_layers(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize(
    "text", ["", "a", "3-", "11-9", "1.5", "0,,1", "--1", "-3--1", "1 2"]
)
def test_other_layers_are_refused(text):
    with pytest.raises(typer.BadParameter):
        parse_layers(text)


def test_layers_without_end_are_cut_short():
    """No model has so many; the missing ones are named when it has been loaded."""
    assert len(parse_layers("0-99999999999")) < 10_000


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("120,80", (120, 80)),
        (" 1.5 , 2 ", (1.5, 2)),
        ("-1,0", (-1, 0)),
    ],
)
def test_points(text, point):
    assert parse_prompt([text], [text], None) == Prompt((point,), (point,))


def test_no_marks_are_no_prompt():
    assert parse_prompt(None, None, None) is None


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "1;2", "1 2"])
def test_other_points_and_boxes_are_refused(text):
    for given in (([text], None, None), (None, [text], None)):
        with pytest.raises(typer.BadParameter, match="120,80"):
            parse_prompt(*given)
    with pytest.raises(typer.BadParameter, match="a box must look like"):
        parse_prompt(None, None, text)


@pytest.mark.parametrize(("text", "sets"), [("auto", None), ("3", 3), ("12", 12)])
def test_sets(text, sets):
    assert parse_sets(text) == sets


@pytest.mark.parametrize("text", ["", "many", "2.5", "AUTO!"])
def test_other_sets_are_refused(text):
    with pytest.raises(typer.BadParameter, match="auto or a number"):
        parse_sets(text)
