"""Frames from folders and video files."""

import sys

import numpy as np
import pytest
from PIL import Image

from attnchain.errors import ArgumentError, ImageError, MissingExtraError
from attnchain.models import read_frames


def grey(level):
    return Image.new("RGB", (32, 16), (level, level, level))


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "frames"
    found.mkdir()
    for number in (10, 2, 1, 0):
        grey(number * 10).save(found / f"f{number}.png")
    grey(0).save(found / ".hidden.png")
    (found / "notes.txt").write_text("no frame", "utf-8")
    return found


@pytest.fixture
def film(tmp_path):
    """Six grey frames, each darker than the next."""
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(6):
            frame = av.VideoFrame.from_image(grey(40 * number))
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return path


def test_numbers_in_names_are_read_as_numbers(folder):
    frames = list(read_frames(folder))
    assert [frame.name for frame in frames] == ["f0", "f1", "f2", "f10"]
    assert frames[2].read().getpixel((0, 0)) == (20, 20, 20)
    assert [frame.name for frame in read_frames(folder, every=3)] == ["f0", "f10"]


def test_a_broken_frame_is_told_when_it_is_read(folder):
    (folder / "f1.png").write_bytes(b"no picture")
    frames = list(read_frames(folder))
    assert len(frames) == 4
    with pytest.raises(ImageError, match=r"f1\.png"):
        frames[1].read()


def test_a_film_is_decoded_frame_by_frame(film):
    frames = list(read_frames(film, every=2))
    assert [f.name for f in frames] == ["film-00000", "film-00002", "film-00004"]
    levels = [np.asarray(frame.read()).mean() for frame in frames]
    np.testing.assert_allclose(levels, [0, 80, 160], atol=12)
    assert frames[0].read().size == (32, 16)


def test_a_film_cut_short_gives_what_it_has(film):
    content = film.read_bytes()
    film.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="cannot be decoded"):
        list(read_frames(film))


def test_what_is_no_video_is_refused(tmp_path, folder):
    pytest.importorskip("av")
    with pytest.raises(ImageError, match="no such video"):
        read_frames(tmp_path / "missing.mp4")
    with pytest.raises(ImageError, match="one picture"):
        read_frames(folder / "f1.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="has no picture"):
        read_frames(tmp_path / "empty")
    with pytest.raises(ImageError, match=r"notes\.txt cannot be decoded at all"):
        list(read_frames(folder / "notes.txt"))
    with pytest.raises(ArgumentError, match="every"):
        read_frames(folder, every=0)


def test_a_film_needs_its_extra(film, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"attnchain\[video\]"):
        read_frames(film)


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_an_animation_is_read_without_a_video_library(tmp_path, monkeypatch, ending):
    monkeypatch.setitem(sys.modules, "av", None)
    path = tmp_path / f"film.{ending}"
    levels = [grey(level) for level in (0, 80, 160)]
    # A GIF without durations has no control blocks, and to FFmpeg it is one picture.
    levels[0].save(path, save_all=True, append_images=levels[1:], lossless=True)
    frames = [(frame.name, frame.read()) for frame in read_frames(path)]
    assert [name for name, _ in frames] == [f"film-{i:05d}" for i in range(3)]
    assert [picture.getpixel((3, 3)) for _, picture in frames] == [
        (level, level, level) for level in (0, 80, 160)
    ]
    assert len(list(read_frames(path, every=2))) == 2


def test_an_animation_that_is_cut_short_gives_what_it_has(tmp_path):
    path = tmp_path / "film.webp"
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3), np.uint8)
    first, *others = map(Image.fromarray, noise)
    first.save(path, "GIF", save_all=True, append_images=others)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cannot be decoded after 1 frames"):
        [frame.read() for frame in read_frames(path)]
