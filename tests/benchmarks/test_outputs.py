"""Pictures with settings, and folders that resume."""

import runpy
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from attnchain.errors import OutputError

FILE = Path(__file__).parents[2] / "benchmarks" / "guidance" / "outputs.py"
outputs = runpy.run_path(str(FILE))
fill_folder, read_settings, save_picture = (
    outputs[name] for name in ("fill_folder", "read_settings", "save_picture")
)


def gray(seed):
    return Image.new("L", (4, 4), seed % 256)


class Maker:
    """Notes the seeds asked for; may break down on its way."""

    def __init__(self, fails_at=None):
        self.seeds, self.fails_at = [], fails_at

    def __call__(self, seeds):
        if self.fails_at in seeds:
            raise KeyboardInterrupt
        self.seeds += seeds
        return [gray(seed) for seed in seeds]


def test_settings_travel_with_the_picture(tmp_path):
    settings = {"scale": 0.5, "block": None, "place": "Çeşme", "steps": [1, 2]}
    save_picture(gray(7), tmp_path / "new" / "a.png", settings)
    assert read_settings(tmp_path / "new" / "a.png") == settings
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_picture_without_settings_has_none(tmp_path):
    gray(1).save(tmp_path / "b.png")
    assert read_settings(tmp_path / "b.png") == {}


def test_an_interrupted_run_resumes(tmp_path):
    job = {"count": 7, "batch": 2, "seed": 10, "settings": {"scale": 1.0}}
    with pytest.raises(KeyboardInterrupt):
        fill_folder(tmp_path, Maker(fails_at=14), **job)
    rest = Maker()
    assert fill_folder(tmp_path, rest, **job) == 3
    assert rest.seeds == [14, 15, 16]
    assert fill_folder(tmp_path, Maker(), **job) == 0
    last = tmp_path / "000006.png"
    assert read_settings(last) == {"scale": 1.0, "seed": 16}
    assert Image.open(last).getpixel((0, 0)) == 16


def test_other_settings_do_not_mix_in_one_folder(tmp_path):
    fill_folder(tmp_path, Maker(), count=1, batch=1, seed=0, settings={"scale": 1.0})
    with pytest.raises(OutputError, match="made with other settings"):
        fill_folder(tmp_path, Maker(), count=2, batch=1, seed=0, settings={"scale": 2})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"a": object()}, "must be finite numbers, text"),
        ({"a": float("nan")}, "must be finite numbers, text"),
        ({"seed": 3}, "must not hold a seed"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused_first(tmp_path, settings, words):
    made = Maker()
    with pytest.raises(OutputError, match=words):
        fill_folder(tmp_path, made, count=2, batch=1, seed=0, settings=settings)
    assert not made.seeds


def test_too_few_pictures_are_not_saved(tmp_path):
    with pytest.raises(OutputError, match="gave 1 pictures for 2 seeds"):
        fill_folder(
            tmp_path,
            lambda seeds: [gray(seeds[0])],
            count=2,
            batch=2,
            seed=0,
            settings={},
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["made by hand", "[1]"])
def test_foreign_text_is_no_settings(tmp_path, text):
    fields = PngInfo()
    fields.add_text("attnchain", text)
    gray(0).save(tmp_path / "000000.png", pnginfo=fields)
    with pytest.raises(OutputError, match="which are no settings"):
        read_settings(tmp_path / "000000.png")
    with pytest.raises(OutputError, match="which are no settings"):
        fill_folder(tmp_path, Maker(), count=1, batch=1, seed=0, settings={})


def test_numbers_below_one_are_refused(tmp_path):
    with pytest.raises(OutputError, match="at least 1"):
        fill_folder(tmp_path, Maker(), count=0, batch=1, seed=0, settings={})


def test_what_cannot_be_written_or_read_is_named(tmp_path):
    with pytest.raises(OutputError, match="PNG files"):
        save_picture(gray(0), tmp_path / "a.jpg", {})
    with pytest.raises(OutputError, match="must be finite numbers, text"):
        save_picture(gray(0), tmp_path / "a.png", {"a": object()})
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_picture(gray(0), tmp_path / "file" / "a.png", {})
    with pytest.raises(OutputError, match="cannot read"):
        read_settings(tmp_path / "file")
