"""Videos on the command line."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.cli.ended import assert_one_line
from tests.vision import tiny


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in (0, 1, 2):
        tiny.picture(seed=number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def mask(tmp_path):
    """Two objects, by number."""
    labels = np.zeros((40, 64), np.uint8)
    labels[10:20, 20:36], labels[25:40, 40:60] = 1, 2
    path = tmp_path / "mask.png"
    Image.fromarray(labels).save(path)
    return path


def labels_of(ended, number):
    with Image.open(ended.folder / "walk" / f"{number}-segments.png") as stored:
        return np.asarray(stored)


def test_the_main_object_is_followed(run, frames):
    ended = run("video", frames)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("3 frames followed: rest, object")
    record = ended.json("walk-video.json")
    assert [told["name"] for told in record["frames"]] == ["0", "1", "2"]
    assert record["failed"] == {}
    for number in range(3):
        assert labels_of(ended, number).shape == (40, 64)
        assert ended.json(f"walk/{number}.json")["frame"] == number
    with Image.open(ended.folder / "walk-video.gif") as shown:
        assert (shown.n_frames, shown.size) == (3, (64, 40))
    again = run("video", frames, "--every", 2, "--json")
    assert again.code == 0, again.err
    assert len(json.loads(again.out)["frames"]) == 2


def test_objects_of_a_mask_keep_their_numbers(run, frames, mask):
    ended = run("video", frames, "--mask", mask, "--save", "labels")
    assert ended.code == 0, ended.err
    with Image.open(mask) as given:
        np.testing.assert_array_equal(labels_of(ended, 0), np.asarray(given))
    names = ["rest", "object 1", "object 2"]
    assert all(
        told["names"] == names for told in ended.json("walk-video.json")["frames"]
    )
    assert not list(ended.folder.rglob("*overlay.png"))


@pytest.mark.parametrize("marked", [["--point", "25,15"], ["--sets", "3"]])
def test_marks_and_sets_of_the_first_frame_are_followed(run, frames, marked):
    ended = run("video", frames, *marked)
    assert ended.code == 0, ended.err


def test_a_broken_frame_is_left_out_and_the_exit_code_is_1(run, frames):
    (frames / "1.png").write_bytes(b"no picture")
    tiny.picture(width=32).save(frames / "3.png")
    ended = run("video", frames)
    assert ended.code == 1
    record = ended.json("walk-video.json")
    assert {*record["failed"]} == {"1", "3"}
    assert [told["name"] for told in record["frames"]] == ["0", "2"]
    assert "2 failed" in ended.out


def test_a_film_is_followed(run, tmp_path):
    av = pytest.importorskip("av")
    film = tmp_path / "film.avi"
    with av.open(str(film), "w") as video:
        stream = video.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 40, "yuvj420p"
        for number in range(3):
            picture = tiny.picture(seed=number)
            video.mux(stream.encode(av.VideoFrame.from_image(picture)))
        video.mux(stream.encode())
    ended = run("video", film, "--point", "25,15")
    assert ended.code == 0, ended.err
    names = [told["name"] for told in ended.json("film-video.json")["frames"]]
    assert names == ["film-00000", "film-00001", "film-00002"]


def test_an_object_that_is_lost_is_named_once(run, frames, tmp_path):
    speck = np.zeros((40, 64), np.uint8)
    speck[20, 30] = 255
    Image.fromarray(speck).save(tmp_path / "speck.png")
    ended = run("video", frames, "--mask", tmp_path / "speck.png")
    assert ended.code == 0, ended.err
    assert ended.err == "attnchain: warning: 1: object is not seen from here on\n"
    assert ended.json("walk-video.json")["frames"][2]["lost"] == ["object"]


def test_what_cannot_be_followed_is_refused(refused, frames, mask, tmp_path):
    assert "exclude each other" in refused("video", frames, "--mask", mask, "--sets", 3)
    assert "exclude" in refused("video", frames, "--point", "1,1", "--mask", mask)
    assert "--sets" in refused("video", frames, "--sets", "many")
    assert "no such video" in refused("video", tmp_path / "none.mp4")
    assert "no file is called" in refused("video", frames, "--save", "film")
    assert "outside" in refused("video", frames, "--point", "900,900")
    black = tmp_path / "black.png"
    Image.new("L", (64, 40)).save(black)
    assert "holds no object" in refused("video", frames, "--mask", black)
    Image.new("L", (32, 20), 255).save(black)
    assert_one_line(refused("video", frames, "--mask", black))
