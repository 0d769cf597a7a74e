"""The command run in this process."""

import signal
import warnings
from pathlib import Path

import pytest
from tests.cli.ended import Ended, assert_one_line
from tests.vision import tiny

from attnchain.cli import main


@pytest.fixture
def image(tmp_path):
    """A picture file of 64 x 40 pixels."""
    path = tmp_path / "cat.png"
    tiny.picture().save(path)
    return path


@pytest.fixture
def _own_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def run(_own_signals, tiny_folder, tmp_path, monkeypatch, capsys):
    """Runs `attnchain ARGUMENTS`; output goes to tmp_path/out unless told otherwise."""

    def run(command, *args, out=None, model=tiny_folder, size=64):
        folder = tmp_path / "out" if out is None else out
        options = {"--model": model, "--size": size, "--out": folder}
        extra = [
            str(x) for pair in options.items() if pair[1] is not None for x in pair
        ]
        argv = ["attnchain", command, *map(str, args), *extra]
        monkeypatch.setattr("sys.argv", argv)
        monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return Ended(code or 0, said.out, said.err, Path(folder))

    return run


@pytest.fixture
def refused(run):
    """Asserts that a command is refused: exit 2, one line, nothing written."""

    def refused(*args, **kwargs):
        ended = run(*args, **kwargs)
        assert ended.code == 2, ended.err
        assert_one_line(ended.err)
        assert ended.out == ""
        assert ended.files == []
        return ended.err

    return refused
