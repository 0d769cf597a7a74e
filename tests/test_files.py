"""Files that appear whole or not at all."""

import subprocess
import sys

import pytest

from attnchain.errors import ChainError, OutputError
from attnchain.files import Outputs, write_whole


def remains(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_files_appear_together_at_the_end(tmp_path):
    with Outputs(tmp_path / "out", "cat") as outputs:
        for ending in ("-a.txt", "-b.txt"):
            outputs.path(ending).write_text(ending)
        visible = [
            p for p in tmp_path.rglob("*") if p.name in ("cat-a.txt", "cat.json")
        ]
        told = outputs.describe({"n": 1})
        assert all(".attnchain" in str(path.parent) for path in visible)
    names = ["cat-a.txt", "cat-b.txt", "cat.json"]
    assert remains(tmp_path / "out") == names
    assert told.pop("attnchain").startswith("attnchain of:")
    assert told == {"n": 1, "files": [str(tmp_path / "out" / name) for name in names]}


@pytest.mark.parametrize("error", [ChainError, KeyboardInterrupt, ZeroDivisionError])
def test_nothing_appears_when_the_block_fails(tmp_path, error):
    def fail():
        with Outputs(tmp_path, "cat") as outputs:
            outputs.path("-a.txt").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert remains(tmp_path) == []


def test_folders_made_on_the_way_go_with_a_failure(tmp_path):
    (tmp_path / "mine").mkdir()

    def fail():
        with Outputs(tmp_path / "mine" / "new" / "folder", "cat") as outputs:
            outputs.path("-a.txt").write_text("half")
            raise ChainError

    with pytest.raises(ChainError):
        fail()
    assert remains(tmp_path) == ["mine"]


def test_an_error_of_the_disk_names_the_folder(tmp_path):
    def fail():
        with Outputs(tmp_path, "cat") as outputs:
            outputs.path("-a.txt").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device") as caught:
        fail()
    assert str(tmp_path) in str(caught.value)
    assert remains(tmp_path) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "it.html", b"all")
    assert (tmp_path / "it.html").read_bytes() == b"all"
    for taken in (tmp_path / "missing" / "it.html", tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            write_whole(taken, b"all")
    assert remains(tmp_path) == ["it.html"]


WRITING = """
import os
from pathlib import Path
from attnchain.files import Outputs

with Outputs(Path.cwd(), "cat") as outputs:
    outputs.path("-a.txt").write_text("half")
    print(flush=True)
    input()
"""


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path):
    def begin():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        child = subprocess.Popen([sys.executable, "-c", WRITING], cwd=tmp_path, **pipes)
        child.stdout.readline()
        return child

    with begin() as killed, begin() as living:
        assert len(remains(tmp_path)) == 4
        killed.kill()
        killed.wait()
        with Outputs(tmp_path, "dog") as outputs:
            outputs.describe({})
        assert len([name for name in remains(tmp_path) if name[0] == "."]) == 1
        living.communicate(b"\n")
    assert remains(tmp_path) == ["cat-a.txt", "dog.json"]
