"""Bad input: exit code 2, one line that says what to do, nothing written."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.cli.ended import assert_one_line
from tests.vision import tiny

from attnchain.errors import ConvergenceError, ToleranceError

COMMANDS = ("segment", "rank", "heads")


def bomb(path):
    """The header of a picture of 20,000 x 20,000 pixels, and a few of them."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def truncated(path):
    tiny.picture().save(path)
    path.write_bytes(path.read_bytes()[:600])


def range_unknown(path):
    Image.fromarray(np.ones((8, 9), np.float32)).save(path)


BROKEN = {
    "missing.png": (lambda path: None, "no such file"),
    "folder.png": (lambda path: path.mkdir(), "this is a folder"),
    "empty.png": (lambda path: path.touch(), "is empty"),
    "cut.jpg": (truncated, "damaged or cut short"),
    "text.png": (lambda path: path.write_text("hello " * 50), "not a picture"),
    "bomb.png": (bomb, "too large.*make it smaller"),
    "float.tiff": (range_unknown, "save the picture with 8 or 16 bits"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_pictures(refused, tmp_path, command, name):
    make, message = BROKEN[name]
    make(tmp_path / name)
    if command == "segment" and name == "folder.png":
        message = "has no picture"  # a folder is one of pictures there
    said = refused(command, tmp_path / name)
    assert name in said or name == "float.tiff"
    assert_says(said, message)


def assert_says(said, message):
    for part in message.split(".*"):
        assert part in said


OPTIONS = {
    "point_right_of_it": (["--point", "64,0"], "outside the picture"),
    "point_below_it": (["--point", "0,40"], "outside the picture"),
    "negative_point": (["--point=-1,2"], "outside the picture"),
    "no_number_point": (["--point", "nan,2"], "outside the picture"),
    "malformed_point": (["--point", "12"], "must look like 120,80"),
    "worded_point": (["--point", "left,top"], "must look like 120,80"),
    "malformed_sets": (["--sets", "few"], "auto or a number"),
    "no_sets": (["--sets", "0"], "sets must lie in 2..24"),
    "one_set": (["--sets", "1"], "sets must lie in 2..24"),
    "too_many_sets": (["--sets", "25"], "sets must lie in 2..24"),
    "bounces_of_sets": (["--bounces", "2"], "bounces go with"),
    "bounces_without_end": (
        ["--point", "1,1", "--bounces", "5000"],
        "same everywhere.*fewer",
    ),
    "no_bounces": (["--bounces", "0"], "--bounces"),
    "foreground_and_point": (["--foreground", "--point", "1,1"], "exclude"),
    "foreground_and_sets": (["--foreground", "--sets", "2"], "exclude"),
}


@pytest.mark.parametrize(("args", "message"), OPTIONS.values(), ids=OPTIONS.keys())
def test_options_of_segment(refused, image, args, message):
    assert_says(refused("segment", image, *args), message)


SHARED = {
    "malformed_layers": (["--layers", "last"], "must look like 9-11 or 3,5"),
    "backward_layers": (["--layers", "1-0"], "smaller"),
    "endless_layers": (["--layers", "0-99999999999"], "layers"),
    "unknown_layer": (["--layers", "7"], "layers 0 to 1.*7"),
    "one_unknown_layer": (["--layers", "0-3"], "layers 0 to 1.*2, 3"),
    "unknown_option": (["--colour", "red"], "--colour"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("args", "message"), SHARED.values(), ids=SHARED.keys())
def test_options_of_all_commands(refused, image, command, args, message):
    assert_says(refused(command, image, *args), message)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "size"),
        (7, "at least one patch"),
        (8, "1 patch"),
        ("big", "size"),
        (100_000, "at most 16,384.*1024"),
    ],
)
def test_sizes(refused, image, command, size, message):
    assert_says(refused(command, image, size=size), message)


RANK = {
    "no_damping": (["--damping", "0"], "(0, 1]"),
    "more_than_damping": (["--damping", "1.5"], "(0, 1]"),
    "no_top": (["--top", "0"], "--top"),
    "direction": (["--direction", "sideways"], "incoming"),
}


@pytest.mark.parametrize(("args", "message"), RANK.values(), ids=RANK.keys())
def test_options_of_rank(refused, image, args, message):
    assert_says(refused("rank", image, *args), message)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_a_model(refused, image, tmp_path, command):
    empty = tmp_path / "empty"
    empty.mkdir()
    said = refused(command, image, model=empty)
    assert_says(said, "holds no config.json.*dinov2-small-saliency")


def test_an_unknown_model_names_the_embedded_one(refused, image, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refused("heads", image, model="no-such-owner/no-such-model")
    assert_says(said, "no-such-owner/no-such-model.*dinov2-small-saliency")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_picture_at_all(refused, command):
    assert_says(refused(command), "PATH" if command == "segment" else "IMAGE")


def test_internal_names_stay_inside(refused, image):
    said = refused("heads", image, "--layers", "7")
    assert "Choice(" not in said
    assert "count" not in refused("segment", image, "--sets", "3", size=16)


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    "error",
    [ConvergenceError("not there yet"), ToleranceError("cannot be certified")],
    ids=["convergence", "tolerance"],
)
def test_what_cannot_be_computed_ends_with_one(run, image, monkeypatch, error, as_json):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("attnchain.vision.ranks.token_rank", fail)
    ended = run("rank", image, *["--json"] * as_json)
    assert ended.code == 1
    assert_one_line(ended.err)
    assert str(error) in ended.err
    assert ended.out == ""
    assert ended.files == []


def test_a_refusal_leaves_no_new_folder(refused, image, tmp_path):
    refused("heads", image, "--layers", "7", out=tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_a_refusal_leaves_earlier_results_alone(run, image):
    before = run("segment", image)
    content = {f: (before.folder / f).read_bytes() for f in before.files}
    after = run("segment", image, "--layers", "7")
    assert after.code == 2
    assert {f: (after.folder / f).read_bytes() for f in after.files} == content
