"""`attnchain text`: what it prints and writes, and what it refuses."""

import csv
import hashlib
import json

import pytest
from tests.language.conftest import loaded
from typer.testing import CliRunner

from attnchain.cli import app
from attnchain.errors import ArgumentError, OutputError, UnsupportedModelError

TEXT = "a cat and a dog; the cat ran"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("attnchain.models.load", lambda _name: loaded("bert"))

    def run(*arguments):
        result = CliRunner().invoke(app, ["text", *map(str, arguments)])
        if result.exception is not None and not isinstance(
            result.exception, SystemExit
        ):
            raise result.exception
        return result

    return run


def test_a_text_is_read_and_said(run):
    said = run(TEXT, "--word", "cat", "--bounces", 2).stdout
    assert "tiny bert: Random weights." in said
    assert "left out: [CLS], [SEP]" in said
    assert "after 2:" in said
    assert "after 3:" not in said


def test_the_same_from_a_file(run, tmp_path):
    (tmp_path / "cat.txt").write_text(TEXT)
    assert run("--file", tmp_path / "cat.txt").stdout == run(TEXT).stdout


def test_files_hold_all_numbers(run, tmp_path):
    numbers, table = tmp_path / "a.json", tmp_path / "a.csv"
    said = run(TEXT, "--json", numbers, "--csv", table, "--word", "cat").stdout
    assert str(numbers) in said
    assert str(table) in said
    written = json.loads(numbers.read_text())
    assert written["input_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert written["settings"]["word"] == "cat"
    assert set(written["versions"]) >= {"python", "attnchain", "torch"}
    assert len(written["weights_sha256"]) == 64
    assert len(written["bounces"]) == 3
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["token"] for row in rows] == [t["token"] for t in written["tokens"]]
    assert rows[0]["incoming"] == ""
    assert float(rows[1]["incoming"]) == written["tokens"][1]["incoming"]


def test_a_page_is_written(run, tmp_path):
    run(TEXT, "--page", tmp_path / "a.html")
    assert "<!doctype html>" in (tmp_path / "a.html").read_text()


def test_nothing_is_replaced_and_nothing_half_written(run, tmp_path):
    there = tmp_path / "a.csv"
    there.write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        run(TEXT, "--json", tmp_path / "a.json", "--csv", there)
    with pytest.raises(OutputError, match="no folder"):
        run(TEXT, "--json", tmp_path / "none" / "a.json")
    assert there.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [there]


@pytest.mark.parametrize("arguments", [(), (TEXT, "--file", "x.txt")])
def test_one_text_is_needed(run, arguments):
    with pytest.raises(ArgumentError, match="either a text or --file"):
        run(*arguments)


def test_files_that_hold_no_text_are_named(run, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ArgumentError, match="UTF-8"):
        run("--file", tmp_path / "a.bin")
    with pytest.raises(ArgumentError, match="cannot be read"):
        run("--file", tmp_path / "none.txt")


def test_a_model_of_pictures_is_refused(run, monkeypatch):
    from tests.vision import tiny

    monkeypatch.setattr("attnchain.models.load", lambda _name: tiny.torch_only())
    with pytest.raises(UnsupportedModelError, match="reads pictures"):
        run(TEXT)
