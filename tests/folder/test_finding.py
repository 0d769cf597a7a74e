"""Files, folders and patterns: what is found, and where it lies."""

import os

import pytest

from attnchain.errors import ImageError, PictureWarning
from attnchain.folder import find_pictures
from attnchain.signing import UNSIGNED, signed


def places(found):
    return [picture.place.as_posix() for picture in found]


def test_a_folder_holds_its_own_pictures_and_with_recursive_those_below(photos):
    assert places(find_pictures([photos])) == ["x.bmp", "x.png"]
    everything = ["a/1.png", "b/1.png", "x.bmp", "x.png"]
    assert places(find_pictures([photos], recursive=True)) == everything


def test_several_folders_keep_apart(photos):
    assert places(find_pictures([photos / "a", photos / "b"])) == ["a/1.png", "b/1.png"]


def test_patterns_and_files_name_each_picture_once(photos):
    paths = [photos / "**" / "*.png", photos / "a" / "1.png", photos / "a"]
    assert places(find_pictures(paths)) == ["a/1.png", "b/1.png", "x.png"]


def test_a_file_that_is_named_like_a_pattern_is_itself(photos):
    odd = photos / "x[1].png"
    os.rename(photos / "x.png", odd)
    assert [picture.path for picture in find_pictures([odd])] == [odd]


def test_hidden_files_others_and_our_own_are_left_out(photos):
    (photos / ".x.png").write_bytes((photos / "x.png").read_bytes())
    (photos / "note.txt").write_text("no picture")
    whole = signed((photos / "x.png").read_bytes(), "x.png")
    assert UNSIGNED.encode() not in whole
    (photos / "x-segments.png").write_bytes(whole)
    assert places(find_pictures([photos])) == ["x.bmp", "x.png"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("missing", "is not there"), ("*.jpg", "fits no file"), ("empty", "no picture")],
)
def test_what_names_nothing_is_refused(photos, name, says):
    (photos / "empty").mkdir()
    with pytest.raises(ImageError, match=says):
        find_pictures([photos / name])


def test_a_linked_folder_is_named_and_not_looked_into(photos):
    (photos / "linked").symlink_to(photos / "a", target_is_directory=True)
    with pytest.warns(PictureWarning, match="linked is a link to a folder"):
        found = find_pictures([photos], recursive=True)
    assert len(found) == 4
    assert len(find_pictures([photos])) == 2
    assert len(find_pictures([photos / "linked"])) == 1
