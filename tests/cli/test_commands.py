"""What the commands write and say when all is well."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tests.vision import tiny
from typer.testing import CliRunner

from attnchain import __version__
from attnchain.cli import app
from attnchain.models import load, read_picture
from attnchain.plot import segment_colors
from attnchain.ranking import token_rank
from attnchain.vision import read_attention, segment

RUNNER = CliRunner()


def stored(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


MODES = {
    "automatic": ([], {}),
    "sets": (["--sets", "4"], {"sets": 4}),
    "point": (["--point", "20,11.5"], {"point": (20, 11.5)}),
    "foreground": (["--foreground"], {"foreground": True}),
    "bounces": (
        ["--foreground", "--bounces", "3"],
        {"foreground": True, "bounces": 3},
    ),
    "layer": (["--layers=-1"], {"layers": [-1]}),
}


@pytest.mark.parametrize(("args", "options"), MODES.values(), ids=MODES.keys())
def test_segment_writes_what_the_function_returns(
    run, image, tiny_folder, args, options
):
    ended = run("segment", image, *args)
    assert ended.code == 0, ended.err
    expected = segment(read_picture(image), model=load(tiny_folder), size=64, **options)
    names = ["cat-figure.png", "cat-segments.png", "cat.json"]
    soft = ["cat-map.png"] if expected.kind == "object" else []
    assert ended.files == sorted(names + soft)
    labels = stored(ended.folder / "cat-segments.png")
    assert labels.mode == "P"
    assert labels.size == (64, 40)
    assert np.array_equal(np.asarray(labels), expected.labels.numpy())
    if soft:
        drawn = np.asarray(stored(ended.folder / "cat-map.png")) / 255
        assert np.abs(drawn - expected.maps[0].numpy()).max() <= 0.5 / 255 + 1e-6


def test_the_index_picture_has_the_colours_of_the_figure(run, image):
    ended = run("segment", image)
    labels = stored(ended.folder / "cat-segments.png")
    shown = np.asarray(labels.convert("RGB"))[0, 0]
    color = segment_colors(16)[np.asarray(labels)[0, 0]]
    assert np.abs(shown - 255 * color).max() <= 0.5


@pytest.mark.parametrize("args", [[], ["--point", "5,5"], ["--foreground"]], ids=str)
def test_segment_tells_its_numbers(run, image, args):
    ended = run("segment", image, *args)
    told = ended.json("cat.json")
    assert told["image"] == str(image)
    assert told["picture"] == {"width": 64, "height": 40}
    assert told["patches"] == {"rows": 5, "columns": 8}
    assert told["layers"] == ([1] if args == ["--foreground"] else [0, 1])
    assert np.shape(told["lambda2"]) == (len(told["layers"]), 2)
    assert 0 <= np.min(told["lambda2"]) <= np.max(told["lambda2"]) <= 1
    assert 0 < told["token_rank"]["error_bound"] <= 1e-6
    assert told["token_rank"]["damping"] == 0.99
    assert set(told["seconds"]) >= {"load", "segment", "write"}
    assert min(told["seconds"].values()) >= 0
    assert told["settings"]["size"] == 64
    assert told["model_note"]
    if args:
        assert 0 < told["object_share"] < 1
    else:
        assert np.isclose(sum(told["sets"]["prevalence"]), 1)
        assert len(told["sets"]["retention"]) == len(told["sets"]["prevalence"])


def test_rank_writes_a_map_and_the_top_patches(run, image, tiny_folder):
    ended = run("rank", image, "--top", 3, "--direction", "outgoing")
    assert ended.code == 0, ended.err
    assert ended.files == ["cat-rank-map.png", "cat-rank.json", "cat-rank.png"]
    told = ended.json("cat-rank.json")
    attention = read_attention(
        read_picture(image), load(tiny_folder), layers=[-2, -1], size=64
    )
    expected = token_rank(attention.chain, direction="outgoing")
    assert [best["patch"] for best in told["top"]] == expected.top(3).tolist()
    for best in told["top"]:
        share = float(expected.distribution[best["patch"]])
        assert best["share"] == pytest.approx(share, abs=1e-6)
        x, y = best["centre"]
        assert attention.grid.patch_at(x, y, width=64, height=40) == best["patch"]
    assert told["direction"] == "outgoing"
    assert 0 < told["error_bound"] <= 1e-6
    heat = np.asarray(stored(ended.folder / "cat-rank-map.png"))
    assert heat.shape == (40, 64)
    assert (heat.min(), heat.max()) == (0, 255)


def test_rank_lists_no_more_patches_than_there_are(run, image):
    ended = run("rank", image, "--top", 1000)
    assert len(ended.json("cat-rank.json")["top"]) == 40


def test_heads_writes_lambda2_of_every_head(run, image, tiny_folder):
    ended = run("heads", image)
    assert ended.code == 0, ended.err
    assert ended.files == ["cat-heads.json", "cat-heads.png"]
    attention = read_attention(read_picture(image), load(tiny_folder), size=64)
    told = torch.tensor(ended.json("cat-heads.json")["lambda2"])
    torch.testing.assert_close(told, attention.lambda2.float(), atol=1e-6, rtol=0)
    numbers = re.findall(r"\d\.\d{3}", ended.out)
    assert numbers == [f"{value:.3f}" for value in told.flatten().tolist()]


COMMANDS = {"segment": "cat.json", "rank": "cat-rank.json", "heads": "cat-heads.json"}


def refuse(constant):
    """NaN and Infinity are no JSON; other readers stop at them."""
    raise AssertionError(constant)


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_all_that_is_printed(run, image, command, size):
    ended = run(command, image, "--json", size=size)
    assert ended.code == 0
    assert ended.err == ""
    printed = json.loads(ended.out, parse_constant=refuse)
    assert printed == ended.json(COMMANDS[command])
    assert sorted(printed["files"]) == [str(ended.folder / f) for f in ended.files]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_person_is_told_the_model_and_the_pictures(run, image, command):
    ended = run(command, image)
    lines = ended.out.splitlines()
    assert "tiny" in lines[0]
    for name in ended.files:
        assert name.endswith(".json") or min(stored(ended.folder / name).size) >= 40
    assert lines[-len(ended.files) :] == [str(ended.folder / f) for f in ended.files]


def test_later_results_replace_earlier_ones(run, image):
    run("segment", image, "--sets", 2)
    ended = run("segment", image, "--sets", 4)
    assert len(ended.json("cat.json")["sets"]["prevalence"]) == 4


def test_commands_on_one_picture_do_not_collide(run, image):
    for command in COMMANDS:
        ended = run(command, image)
    assert len(ended.files) == 8
    assert not any(name.startswith(".attnchain") for name in ended.files)


def test_the_picture_itself_is_never_touched(run, image):
    before = image.read_bytes()
    for command in COMMANDS:
        assert run(command, image, out=image.parent).code == 0
    assert image.read_bytes() == before


def test_folders_on_the_way_are_made(run, image, tmp_path):
    ended = run("heads", image, out=tmp_path / "a" / "b c" / "ü")
    assert ended.code == 0
    assert len(ended.files) == 2


NAMES = ["名前 ünï 🐈.png", "x" * 200 + ".png", "two.dots.png", "noending", "-dash.png"]


@pytest.mark.parametrize("name", NAMES, ids=["unicode", "long", "dots", "bare", "dash"])
def test_names_of_pictures_are_kept(run, image, tmp_path, name):
    renamed = tmp_path / name
    shutil.copy(image, renamed)
    ended = run("heads", renamed)
    assert ended.code == 0, ended.err
    stem = renamed.stem
    assert ended.files == [f"{stem}-heads.json", f"{stem}-heads.png"]
    assert ended.json(f"{stem}-heads.json")["image"] == str(renamed)


def test_orientation_is_respected(run, tmp_path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    tiny.picture().save(turned, exif=exif)
    ended = run("segment", turned)
    assert ended.json("turned.json")["picture"] == {"width": 40, "height": 64}
    assert stored(ended.folder / "turned-segments.png").size == (40, 64)


def saved_16_bits(path):
    grey = np.asarray(tiny.picture().convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path)


COLOURS = {
    "alpha.png": lambda path: tiny.picture().convert("RGBA").save(path),
    "palette.png": lambda path: tiny.picture().convert("P").save(path),
    "sixteen.png": saved_16_bits,
    "cmyk.jpg": lambda path: tiny.picture().convert("CMYK").save(path),
    "bilevel.png": lambda path: tiny.picture().convert("1").save(path),
}


@pytest.mark.parametrize("name", COLOURS)
def test_odd_colour_modes_give_the_right_result(run, tmp_path, name):
    COLOURS[name](tmp_path / name)
    ended = run("rank", tmp_path / name)
    assert ended.code == 0, ended.err
    stem = name.split(".")[0]
    assert stored(ended.folder / f"{stem}-rank-map.png").size == (64, 40)


@pytest.mark.parametrize(
    "shape", [(1, 1), (400, 3), (3, 400)], ids=["one_pixel", "strip", "tower"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_extreme_shapes_are_read(run, tmp_path, command, shape):
    path = tmp_path / "thin.png"
    tiny.picture(*shape).save(path)
    ended = run(command, path)
    if command == "segment" and shape == (1, 1):
        assert ended.code == 2
        assert "told apart" in ended.err
        assert ended.files == []
        return
    assert ended.code == 0, ended.err
    if command == "segment":
        assert stored(ended.folder / "thin-segments.png").size == shape


def test_help_names_every_command():
    said = RUNNER.invoke(app, ["--help"])
    assert said.exit_code == 0
    for command in COMMANDS:
        assert command in said.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(command):
    said = RUNNER.invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert said.exit_code == 0
    for option in ("--model", "--layers", "--size", "--out", "--json"):
        assert option in said.output


def test_the_version_is_told():
    said = RUNNER.invoke(app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"attnchain {__version__}\n")


def test_without_a_command_help_is_shown():
    said = RUNNER.invoke(app, [])
    assert said.exit_code == 2
    assert "segment" in said.output
