"""`attnchain page` and `attnchain serve`, as commands."""

import json

import pytest
import typer
from typer.testing import CliRunner

from attnchain.cli.page import page
from attnchain.cli.serve import serve
from attnchain.errors import ImageError, OutputError
from attnchain.page.serving import PageServer


@pytest.fixture
def run(tiny, monkeypatch):
    """Runs one command with the tiny model in place of any other."""
    monkeypatch.setattr("attnchain.models.load", lambda name: tiny)
    app = typer.Typer()
    app.command()(page)
    app.command()(serve)

    def result(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return result


def test_page_writes_one_file_and_says_which(run, picture, tmp_path):
    picture.save(tmp_path / "halves.png")
    out = tmp_path / "out"
    done = run("page", tmp_path / "halves.png", "--out", out, "--size", 80)
    assert done.exit_code == 0
    assert "Random weights <of no worth>." in done.stdout
    assert "5 layers x 3 heads over 1 special + 7 x 10 patches" in done.stdout
    assert {file.name for file in out.iterdir()} == {
        "halves-page.html",
        "halves-page.json",
    }
    text = (out / "halves-page.html").read_text("utf-8")
    assert "<h1>halves.png</h1>" in text
    again = run(
        *("page", tmp_path / "halves.png", "--out", out, "--size", 80, "--json")
    )
    assert json.loads(again.stdout)["bytes"] == len(text.encode())


def test_page_leaves_nothing_when_there_is_no_picture(run, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        run("page", tmp_path / "missing.png", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_serve_says_where_and_ends_on_ctrl_c(run, monkeypatch):
    folders = []

    def interrupted(server):
        folders.append(server.folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)
    done = run("serve", "--port", "0")
    assert done.exit_code == 0
    assert "Drop pictures on http://127.0.0.1:" in done.stdout
    assert done.stdout.endswith("stopped\n")
    assert not folders[0].exists()


def test_serve_refuses_a_port_it_cannot_have(run):
    with pytest.raises(OutputError, match="cannot listen on port -1"):
        run("serve", "--port=-1")
