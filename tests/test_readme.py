"""What the README tells its reader to do can be done."""

import re
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

from attnchain.cli import app
from attnchain.errors import MissingExtraError, ModelNotFoundError
from attnchain.models import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::attnchain.errors.NumericalWarning")
def test_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    try:
        load()
    except (ModelNotFoundError, MissingExtraError) as error:
        pytest.skip(f"the packaged model is not available: {error}")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    found = blocks("python")
    assert found
    namespace = {"__name__": "readme"}
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)  # noqa: S102


COMMANDS = re.findall(r"^attnchain (\w+)([^#\n]*)", README, re.MULTILINE)


def test_commands_are_shown():
    assert {"segment", "rank", "heads"} <= {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("name", "rest"), COMMANDS)
def test_commands_and_their_options_exist(name, rest):
    command = get_command(app).commands[name]
    known = {option for p in command.params for option in p.opts}
    assert set(re.findall(r"--[\w-]+", rest)) <= known


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert targets <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:|#)([^)#]+)", README))
def test_links_lead_to_files(link):
    assert (ROOT / link).exists()
