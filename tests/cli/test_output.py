"""Where results cannot be written: exit 2, one line, no part of a result."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.cli.ended import assert_one_line

from attnchain.cli.session import Clock

ROOT = Path(__file__).parents[2]


def remains(folder):
    return sorted(path.name for path in folder.rglob("*"))


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
import signal, sys
import attnchain.models
from attnchain.vision import picture_attention
from tests.vision import tiny
def wait(_drawn, path):
    path.write_bytes(b"half of it")
    print("writing", flush=True)
    sys.stdin.read()
attnchain.models.load = lambda _name: tiny.torch_only()
picture_attention.save_figure = wait
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


def test_laps_are_measured_from_lap_to_lap(monkeypatch):
    times = iter([10.0, 11.5, 11.7504])
    monkeypatch.setattr("attnchain.cli.session.time.perf_counter", lambda: next(times))
    clock = Clock()
    clock.lap("one")
    clock.lap("two")
    assert clock.laps == {"one": 1.5, "two": 0.25}
