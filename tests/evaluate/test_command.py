import json
import re

import pytest
import torch
import typer
from tests.evaluate import folders
from tests.vision import tiny
from typer.testing import CliRunner

from attnchain.cli.evaluate import evaluate
from attnchain.errors import DataSetError
from attnchain.models import origin


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Runs the command with a tiny model."""
    import attnchain.models

    monkeypatch.setattr(attnchain.models, "load", lambda name: tiny.dinov2())
    app = typer.Typer()
    app.command()(evaluate)

    def run(*arguments):
        options = [str(a) for a in arguments]
        options += ["--size", "64", "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, options)

    return run


METHODS = "default; column sum"


def test_a_table_for_people_and_files(call, tmp_path):
    folders.objects(tmp_path / "data")
    result = call("grabcut", tmp_path / "data", "--methods", METHODS)
    assert result.exit_code == 0, result.output
    assert "**default**" in result.output
    assert "Protocol: foreground, one region" in result.output
    assert "Random weights." in result.output
    written = {path.name for path in (tmp_path / "out").iterdir()}
    stem = "grabcut-foreground"
    assert written == {f"{stem}{e}" for e in (".jsonl", ".md", ".png", ".json")}


def test_json_and_nothing_else(call, tmp_path):
    folders.objects(tmp_path / "data")
    (tmp_path / "data/images/b.png").write_bytes(b"")
    arguments = ("--methods", METHODS, "--limit", "3", "--json")
    result = call("grabcut", tmp_path / "data", *arguments)
    payload = json.loads(result.stdout)
    assert payload["pictures"] == {"scored": 2, "in_data_set": 4}
    assert list(payload["broken"]) == ["b"]
    assert payload["protocol"] == "foreground"
    assert payload["tables"][0]["columns"][0] == "method and chosen setting"
    assert json.loads((tmp_path / "out/grabcut-foreground.json").read_text()) == payload
    assert payload["settings"]["size"] == 64
    assert payload["versions"]["torch"] == torch.__version__
    whence = origin(tiny.dinov2().model, b"")
    assert payload["weights_sha256"] == whence["weights_sha256"]


def test_other_pictures_are_another_input(call, tmp_path):
    folders.objects(tmp_path / "data")
    arguments = ("grabcut", tmp_path / "data", "--methods", METHODS, "--json")
    first, again = (json.loads(call(*arguments).stdout) for _ in range(2))
    fewer = json.loads(call(*arguments, "--limit", "2").stdout)
    assert first["input_sha256"] == again["input_sha256"]
    assert first["input_sha256"] != fewer["input_sha256"]


def test_a_second_call_continues_the_first(call, tmp_path, monkeypatch):
    folders.objects(tmp_path / "data")
    arguments = ("grabcut", tmp_path / "data", "--methods", METHODS, "--json")
    first = json.loads(call(*arguments, "--limit", "2").stdout)
    assert first["pictures"]["scored"] == 2
    second = json.loads(call(*arguments).stdout)
    assert second["pictures"]["scored"] == 4
    lines = (tmp_path / "out/grabcut-foreground.jsonl").read_text().splitlines()
    assert len(lines) == 5


def test_nothing_but_broken_pictures(call, tmp_path):
    folders.objects(tmp_path / "data", count=1)
    (tmp_path / "data/masks/a.png").write_bytes(b"")
    result = call("grabcut", tmp_path / "data", "--methods", "default")
    assert result.exit_code == 1
    assert "1 pictures could not be scored." in result.stdout
    line = result.stderr.splitlines()[-1]
    assert line.startswith("attnchain: none of the 1 pictures could be scored: Image")


def test_what_is_left_out_is_told(call, tmp_path):
    folders.objects(tmp_path / "data")
    (tmp_path / "data/images/e.heic").write_bytes(b"")
    result = call("grabcut", tmp_path / "data", "--methods", "default")
    assert result.exit_code == 0
    assert "e.heic" in result.stdout


@pytest.mark.parametrize("protocol", ["clicks", "foreground"])
def test_a_mask_without_an_object_does_not_end_a_run(call, tmp_path, protocol):
    folders.pairs(tmp_path / "data", "images", "masks")
    folders.save(tmp_path / "data/masks/b.png", folders.block(0, 0))
    arguments = ("--protocol", protocol, "--methods", "default", "--json")
    result = call("berkeley", tmp_path / "data", *arguments)
    payload = json.loads(result.stdout)
    assert result.exit_code == 0
    assert payload["pictures"]["scored"] == 3
    assert "show no object to be found" in payload["broken"]["b"]


def test_masks_in_colour_are_not_taken_for_classes(call, tmp_path):
    colours = folders.block()[..., None] * folders.np.array([1, 0, 0], "uint8")
    folders.pairs(tmp_path / "data", "images", "masks", values=colours, count=1)
    for protocol in ("regions", "masking"):
        result = call("voc99", tmp_path / "data", "--protocol", protocol)
        assert result.exit_code == 1
        assert "the colours are (0, 0, 0), (255, 0, 0)" in result.stderr


def test_masking_without_two_pictures_of_a_class_says_so(call, tmp_path):
    folders.classes(tmp_path / "data")
    arguments = ("voc99", tmp_path / "data", "--protocol", "masking", "--limit", "1")
    result = call(*arguments)
    assert result.exit_code == 0, result.exception
    assert "| TokenRank, incoming | - | - |" in result.output
    words = " ".join(result.output.split())
    assert "None of the 1 pictures is of the class of another one" in words
    assert not (tmp_path / "out/voc99-masking.png").exists()


def test_the_protocol_follows_the_labels(call, tmp_path):
    folders.regions(tmp_path / "data")
    arguments = ("--methods", "control: one region", "--json")
    payload = json.loads(call("bsds500", tmp_path / "data", *arguments).stdout)
    assert payload["protocol"] == "regions"


def test_bad_input_is_told_in_one_line(call, tmp_path):
    folders.objects(tmp_path / "data")
    result = call("grabcut", tmp_path / "nowhere")
    assert isinstance(result.exception, DataSetError)
    result = call("grabcut", tmp_path / "data", "--protocol", "vibes")
    assert result.exit_code == 2
    words = " ".join(re.findall(r"\w+", result.output))
    assert "foreground clicks regions masking" in words
    result = call("grabcut", tmp_path / "data", "--protocol", "masking")
    assert "needs labels of kind classes" in str(result.exception)
