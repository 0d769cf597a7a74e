"""The installed command, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("attnchain")


@pytest.fixture
def shell(tmp_path):
    """Runs the command from an empty folder, with one thread."""
    if not COMMAND.exists():
        pytest.skip("the package is not installed in this environment")

    def shell(*args, **environment):
        return subprocess.run(
            [COMMAND, *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return shell


def test_a_picture_in_its_segments_out(shell, image, tiny_folder, tmp_path):
    options = ("--model", tiny_folder, "--size", 64, "--json")
    done = shell("segment", image, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["mode"] == "sets"
    names = {"cat-figure.png", "cat-segments.png", "cat.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all((tmp_path / file).is_file() for file in told["files"])


def test_bad_input_ends_with_two(shell, tmp_path):
    done = shell("segment", "missing.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "attnchain: no such file: missing.png\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("level", "code"), [("1", 0), ("2", 2)])
def test_a_python_without_docstrings_is_named(shell, image, tiny_folder, level, code):
    """transformers cannot be imported without them."""
    options = ("--model", tiny_folder, "--size", 64, "--json")
    done = shell("heads", image, *options, PYTHONOPTIMIZE=level)
    assert done.returncode == code, done.stderr
    assert ("PYTHONOPTIMIZE" in done.stderr) == (code == 2)
    assert done.stderr.count("\n") == code // 2
