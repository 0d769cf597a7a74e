"""Folders, marks and forms on the command line."""

import json

import pytest
import torch
from tests.cli.ended import assert_one_line
from tests.vision import tiny

from attnchain.folder import contact_sheet


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for place in ("a/1.png", "b/1.png"):
        file = root / place
        file.parent.mkdir(parents=True)
        tiny.picture().save(file)
    return root


def test_a_folder_is_answered_and_recorded(run, photos):
    ended = run("segment", photos, "--recursive", "--save", "labels,coco")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("2 pictures answered")
    record = ended.json("attnchain-job.json")
    assert (record["pictures"], record["done"], record["failed"]) == (2, 2, {})
    assert record["versions"]["torch"] == torch.__version__
    assert [answer["mode"] for answer in record["answers"]] == ["sets", "sets"]
    merged = ended.json("attnchain-job-coco.json")
    assert [image["file_name"] for image in merged["images"]] == ["a/1.png", "b/1.png"]
    ids = [annotation["id"] for annotation in merged["annotations"]]
    assert ids == [*range(1, len(ids) + 1)]
    again = run("segment", photos, "--recursive", "--save", "labels,coco", "--json")
    assert json.loads(again.out)["kept"] == 2
    assert ended.json("attnchain-job-coco.json")["images"] == merged["images"]


def test_a_broken_picture_makes_the_exit_code_1(run, photos):
    (photos / "a" / "1.png").write_bytes(b"no picture")
    ended = run("segment", photos, "--recursive")
    assert ended.code == 1
    assert "a/1.png" in ended.err
    assert list(ended.json("attnchain-job.json")["failed"]) == [
        str(photos / "a" / "1.png")
    ]
    assert "1 failed" in ended.out


def test_marks_are_matched_and_what_does_not_meet_is_said(run, photos, tmp_path):
    marks = tmp_path / "marks.csv"
    marks.write_text("picture,points\na/1.png,20 11\nc/1.png,3 4\n", "utf-8")
    ended = run("segment", photos, "--recursive", "--marks", marks)
    assert ended.code == 1
    failed = ended.json("attnchain-job.json")["failed"]
    assert {*failed} == {"c/1.png", str(photos / "b" / "1.png")}
    assert ended.json("a/1.json")["mode"] == "clicks"


def test_points_repeat_and_a_box_goes_with_them(run, image):
    marks = ["--point", "20,11", "--not-point", "2,3", "--point", "30,12"]
    ended = run("segment", image, *marks, "--box", "8,4,50,30", "--save", "cutout")
    assert ended.code == 0, ended.err
    told = ended.json("cat.json")
    assert told["settings"]["prompt"]["points"] == [[20, 11], [30, 12]]
    marked = [mark["pixels"] for mark in told["marks"] if mark["pixels"]]
    assert marked == [[[20, 11]], [[2, 3]], [[30, 12]]]
    assert ended.files == ["cat-cutout.png", "cat.json"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--not-point", "3,4"], "nothing says where the object is"),
        (["--point", "3"], "a point must look like 120,80"),
        (["--box", "3,4,5"], "a box must look like"),
        (["--box", "9,4,5,8"], "left < right"),
        (["--point", "3,4", "--box", "1,1,9,9", "--sets", "3"], "choose one of"),
        (["--save", "labels,mask"], "no file is called 'mask'"),
        (["--save", "cutout"], "'cutout' goes with an object"),
        (["--save", "map", "--sets", "3"], "'map' goes with --foreground"),
        (["--save", "map", "--point", "3,4", "--workers", "2"], "one picture"),
        (["--marks", "m.csv", "--point", "3,4"], "give none beside"),
        (["--marks", "m.csv", "--foreground"], "leave out --foreground"),
        (["--marks", "m.csv"], "cannot be read"),
        (["--address", "auto", "--workers", "2"], "goes with the engine ray"),
    ],
)
def test_what_does_not_go_together_is_one_line(refused, image, args, says):
    said = refused("segment", image, *args)
    assert says in said


def test_a_name_that_fits_nothing_is_one_line(run, tmp_path):
    ended = run("segment", tmp_path / "*.gif")
    assert ended.code == 2
    assert_one_line(ended.err)
    assert "fits no file" in ended.err


def test_a_picture_named_like_a_form_of_another_keeps_its_answer(run, photos):
    for name in ("x.png", "x-coco.png", "attnchain-job.png"):
        tiny.picture().save(photos / name)
    ended = run("segment", photos, "--save", "labels,coco")
    assert ended.code == 0, ended.err
    images = ended.json("attnchain-job-coco.json")["images"]
    assert {image["file_name"] for image in images} == {
        *("x.png", "x-coco.png", "attnchain-job.png"),
    }
    assert ended.json("attnchain-job.json")["done"] == 3


def test_an_answer_without_its_picture_is_named_by_run_and_sheet(run, photos):
    run("segment", photos, "--recursive", "--save", "labels")
    (photos / "a" / "1.png").rename(photos / "a" / "2.png")
    ended = run("segment", photos, "--recursive", "--save", "labels")
    assert ended.code == 0, ended.err
    assert "not there any more" in ended.err
    (gone,) = ended.json("attnchain-job.json")["gone"]
    assert gone.endswith("1.json")
    found = contact_sheet(ended.folder)
    assert [entry.name for entry in found.entries if entry.gone] == ["a/1"]
    assert "1 whose picture is not where it was" in found.summary()
    assert found.html.count("its picture is not where it was") == 1
