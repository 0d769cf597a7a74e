"""Files of marks, and the pictures they are for."""

import json
from pathlib import Path

import pytest

from attnchain.errors import ArgumentError
from attnchain.folder import Picture, match_marks, read_marks
from attnchain.vision import Prompt

CSV = """picture,points,not_points,box,order
a/1.png,3 4; 5.5 6,7 8,,+-+
"x, y.png",,,1 2 30 40,
"""
EXPECTED = {
    "a/1.png": Prompt(((3, 4), (5.5, 6)), ((7, 8),), order="+-+"),
    "x, y.png": Prompt(box=(1, 2, 30, 40)),
}


def written(tmp_path, text, name="marks.csv"):
    file = tmp_path / name
    file.write_text(text, "utf-8")
    return file


def test_csv_and_json_say_the_same(tmp_path):
    assert read_marks(written(tmp_path, CSV)) == EXPECTED
    records = [
        {
            "picture": "a/1.png",
            "points": [[3, 4], [5.5, 6]],
            "not_points": [[7, 8]],
            "order": "+-+",
        },
        {"picture": "x, y.png", "box": [1, 2, 30, 40]},
    ]
    assert read_marks(written(tmp_path, json.dumps(records), "m.json")) == EXPECTED


def test_a_table_programs_mark_at_the_start_is_read(tmp_path):
    assert read_marks(written(tmp_path, "\ufeff" + CSV)) == EXPECTED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,points\nx,1 2\n", "the first line must be"),
        ("", "the first line must be"),
        ("picture,points\nx.png,1\n", "line 2: each of points must be two numbers"),
        ("picture,points\nx.png,one two\n", "line 2"),
        ("picture,box\nx.png,5 5 1 1\n", "left < right"),
        ("picture,points\nx.png,\n", "nothing says where"),
        ("picture,points,order\nx.png,1 2,-+\n", "line 2: the order must have"),
        ("picture,points\nx.png,1 2\nx.png,1 2\n", "has marks already"),
        ("picture,points\nx.png,1 2,3\n", "more fields"),
        ("picture,points\n,1 2\n", "names no picture"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, says):
    with pytest.raises(ArgumentError, match=says):
        read_marks(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("{}", "must hold a list"),
        ('[{"points": [[1, 2]]}]', "record 1 must be an object"),
        ('[{"picture": "x", "point": [1, 2]}]', "record 1 must be an object"),
        ('[{"picture": "x", "points": 3}]', "record 1"),
        ('[{"picture": "x", "box": "far"}]', "record 1"),
    ],
)
def test_bad_records_are_named(tmp_path, text, says):
    with pytest.raises(ArgumentError, match=says):
        read_marks(written(tmp_path, text, "m.json"))


def test_a_name_fits_by_path_or_by_itself_where_it_is_the_only_one():
    pictures = [
        Picture(Path("in/a/1.png"), Path("a/1.png")),
        Picture(Path("in/b/1.png"), Path("b/1.png")),
        Picture(Path("in/x.png"), Path("x.png")),
    ]
    prompt = Prompt(box=(0, 0, 1, 1))
    names = ["a/1.png", "in/b/1.png", "x.png", "1.png", "y.png"]
    found, lost = match_marks(dict.fromkeys(names, prompt), pictures)
    assert list(found) == pictures
    assert lost == ["1.png", "y.png"]


def test_two_names_of_one_picture_are_refused():
    pictures = [Picture(Path("in/a/1.png"), Path("a/1.png"))]
    prompt = Prompt(box=(0, 0, 1, 1))
    with pytest.raises(ArgumentError, match=r"in/a/1\.png has marks already"):
        match_marks(dict.fromkeys(("a/1.png", "in/a/1.png"), prompt), pictures)
