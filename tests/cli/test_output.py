"""Where results cannot be written: exit 2, one line, no part of a result."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.ended import assert_one_line

from attnchain.cli.output import Clock, Outputs, save_figure, save_labels, save_map
from attnchain.errors import ChainError, OutputError

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("command", ["segment", "rank", "heads"])
@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_file_is_no_folder(refused, image, tmp_path, command, below):
    plain = tmp_path / "plain"
    plain.write_text("mine")
    said = refused(command, image, out=plain / below)
    assert "--out" in said
    assert str(plain) in said
    assert plain.read_text() == "mine"


def test_a_name_too_long_for_the_disk(refused, image, tmp_path):
    assert "--out" in refused("heads", image, out=tmp_path / ("d" * 300))


def test_a_picture_name_too_long_for_the_endings(run, image, tmp_path):
    long = tmp_path / ("x" * 250 + ".png")
    image.rename(long)
    ended = run("heads", long)
    assert ended.code == 2
    assert_one_line(ended.err)
    assert ended.files == []


@pytest.mark.parametrize("taken", ["cat-heads.png", "cat-heads.json"])
def test_a_folder_in_the_place_of_a_result(run, image, tmp_path, taken):
    (tmp_path / "out" / taken).mkdir(parents=True)
    ended = run("heads", image)
    assert ended.code == 2
    assert_one_line(ended.err)
    assert ended.files == [taken]


@contextmanager
def mounted(folder, options):
    """A small file system in memory; skips where one may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"mount cannot be run: {error}")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_may_not_be_written(run, image, tmp_path):
    with mounted(tmp_path / "disk", "ro,size=64k") as disk:
        ended = run("heads", image, out=disk / "out")
    assert ended.code == 2
    assert_one_line(ended.err)
    assert "--out" in ended.err


@pytest.mark.parametrize("command", ["segment", "rank", "heads"])
def test_a_full_disk(run, image, tmp_path, command):
    with mounted(tmp_path / "disk", "size=8k") as disk:
        ended = run(command, image, out=disk / "out")
        left = [path for path in disk.rglob("*") if path.is_file()]
        hidden = list(disk.rglob(".attnchain*"))
    assert ended.code == 2
    assert_one_line(ended.err)
    assert "No space left" in ended.err
    assert left == hidden == []


def test_files_that_may_not_grow(run, image):
    """A limit on the size of files stands in for the full disk without a mount."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        ended = run("heads", image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.code == 2
    assert_one_line(ended.err)
    assert ended.files == []


BLOCKED = """
import importlib, signal, sys
import attnchain.models
from tests.vision import tiny
command = importlib.import_module("attnchain.cli.heads")
def wait(_drawn, path):
    path.write_bytes(b"half of it")
    print("writing", flush=True)
    sys.stdin.read()
attnchain.models.load = lambda _name: tiny.torch_only()
command.save_figure = wait
sys.argv = ["attnchain", "heads", *sys.argv[1:]]
# A shell lets its background jobs ignore Ctrl-C, and this process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from attnchain.cli import main
main()
"""


@contextmanager
def blocked(image, out):
    """A command in its own process that hangs while it writes its figure.

    It waits for the end of its standard input, which stays open.
    """
    command = [sys.executable, "-c", BLOCKED, str(image), "--out", str(out), "--json"]
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--size", "64"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


STOPS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_stopped_half_way_nothing_is_left(image, tmp_path, stop):
    out = tmp_path / "out"
    with blocked(image, out) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(stop)
        said = process.stderr.read()
        process.wait()
    assert process.returncode not in (0, None)
    assert "Traceback" not in said
    assert not out.exists() or remains(out) == []


def test_killed_half_way_no_result_is_seen_and_the_next_run_is_whole(
    run, image, tmp_path
):
    out = tmp_path / "out"
    with blocked(image, out) as process:
        assert process.stdout.readline() == "writing\n"
        process.kill()
        process.wait()
    assert not any(path.name.startswith("cat") for path in out.iterdir())
    ended = run("heads", image)
    assert ended.code == 0
    assert {"cat-heads.json", "cat-heads.png"} <= set(ended.files)


def test_a_full_standard_output_is_no_traceback(run, image, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115
    monkeypatch.setattr("sys.stdout", full)
    ended = run("heads", image)
    with suppress(OSError):
        full.close()
    assert ended.code in (1, 2)
    assert_one_line(ended.err)


def test_labels_are_stored_as_they_are(tmp_path):
    labels = torch.arange(256).reshape(8, 32)
    save_labels(labels, tmp_path / "labels.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels.png")), labels)


def test_maps_are_stored_in_grey(tmp_path):
    values = torch.linspace(0, 1, 256).reshape(16, 16)
    save_map(values, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as stored:
        assert stored.mode == "L"
        assert np.array_equal(np.asarray(stored).flatten(), np.arange(256))


def test_axes_are_saved_with_their_figure(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    for drawn in (figure, figure.add_subplot()):
        save_figure(drawn, tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as stored:
            assert stored.size == (220, 110)


def test_laps_are_measured_from_lap_to_lap():
    clock = Clock()
    for name in ("one", "two"):
        clock.lap(name)
    assert list(clock.laps) == ["one", "two"]
    assert all(0 <= seconds < 1 for seconds in clock.laps.values())
