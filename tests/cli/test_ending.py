"""How a command ends whatever happens: one line, an exit code, nothing left behind."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.cli.ended import assert_one_line

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fails_with(run, image, monkeypatch):
    """The command ends by an error that nobody foresaw."""

    def fails_with(error):
        def fail(*_args, **_kwargs):
            raise error

        monkeypatch.setattr("attnchain.vision.read_attention", fail)
        ended = run("heads", image)
        assert ended.files == []
        assert ended.out == ""
        return ended

    return fails_with


OUT_OF_MEMORY = {
    "python": MemoryError(),
    "numpy": np._core._exceptions._ArrayMemoryError((9, 9), np.dtype("f8")),
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 99 bytes.\nmore"
    ),
    "card": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "system": OSError(12, "Cannot allocate memory"),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY.keys())
def test_running_out_of_memory_is_one_clear_line(fails_with, error):
    ended = fails_with(error)
    assert ended.code == 1
    assert_one_line(ended.err)
    assert "memory ran out" in ended.err
    assert "--size" in ended.err


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("by zero\nmore"), KeyError("x"), AssertionError()],
    ids=str,
)
def test_a_fault_of_ours_is_one_line_that_says_so(fails_with, error):
    ended = fails_with(error)
    assert ended.code == 1
    assert_one_line(ended.err)
    assert type(error).__name__ in ended.err
    assert "test_ending.py, line" in ended.err
    assert "report" in ended.err


def test_an_error_elsewhere_is_not_blamed_on_the_output(fails_with):
    error = PermissionError(13, "Permission denied", "/somebody/else/cache")
    ended = fails_with(error)
    assert ended.code == 1
    assert "/somebody/else/cache" in ended.err
    assert "--out" not in ended.err


@pytest.mark.parametrize("error", [KeyboardInterrupt, lambda: SystemExit(130)])
def test_ctrl_c_says_nothing(fails_with, error):
    ended = fails_with(error())
    assert ended.code == 130
    assert ended.err.strip() == ""


@pytest.mark.usefixtures("_own_signals")
def test_without_a_command_the_commands_are_shown(monkeypatch, capsys):
    from attnchain.cli import main

    monkeypatch.setattr("sys.argv", ["attnchain"])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert "segment" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("-", "standard input"),
        ("https://example.org/cat.png", "download it first"),
        ("file:///tmp/cat.png", "download it first"),
    ],
)
def test_what_is_no_file_gets_a_hint(refused, name, hint):
    assert hint in refused("heads", name)


def test_the_home_folder_may_be_a_tilde(run, image, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert run("heads", image, out="~/results").code == 0
    assert (tmp_path / "home" / "results" / "cat-heads.json").is_file()
    assert not (tmp_path / "~").exists()


def test_a_dollar_is_a_dollar(run, image, tmp_path, monkeypatch, tiny_folder):
    monkeypatch.setenv("HOME", "/wrong")
    model = tmp_path / "$HOME $\\frac$ $x_{$"
    model.symlink_to(tiny_folder)
    for command in ("segment", "rank", "heads"):
        ended = run(command, image, out=tmp_path / "$HOME", model=model)
        assert ended.code == 0, ended.err
    assert (tmp_path / "$HOME" / "cat.json").is_file()


NAME_MAX = os.pathconf("/", "PC_NAME_MAX")


@pytest.mark.parametrize("too_long", [0, 1])
def test_names_up_to_the_limit(run, image, tmp_path, too_long):
    room = NAME_MAX - len("-heads.json")
    long = tmp_path / ("x" * (room + too_long) + ".png")
    image.rename(long)
    ended = run("heads", long)
    assert ended.code == (2 if too_long else 0), ended.err
    if too_long:
        assert_one_line(ended.err)
        assert f"may have {NAME_MAX} bytes" in ended.err
        assert "make room" not in ended.err
        assert ended.files == []


def test_a_long_name_has_a_page_too(run, image, tmp_path):
    long = tmp_path / ("x" * (NAME_MAX - len("-page.json")) + ".png")
    image.rename(long)
    assert run("page", long).code == 0


# Processes of their own: environments and signals

STARTED = """
import attnchain.models
from tests.vision import tiny
attnchain.models.load = lambda _name: tiny.torch_only()
from attnchain.cli import main
"""


def environment(**changes):
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    base = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return {k: v for k, v in (base | changes).items() if v is not None}


def command(code, *words, **options):
    return subprocess.run(
        [sys.executable, "-c", code + "\nmain()", *map(str, words)],
        check=False,
        **{"capture_output": True, "text": True, **options},
    )


BACKENDS = ["module://matplotlib_inline.backend_inline", "nothing", "TkAgg", ""]


@pytest.mark.parametrize("backend", BACKENDS)
def test_figures_are_drawn_whatever_backend_is_named(image, tmp_path, backend):
    done = command(
        *(
            STARTED,
            "segment",
            image,
            "--layers",
            0,
            "--size",
            64,
            "--json",
            "--out",
            tmp_path / "out",
        ),
        env=environment(MPLBACKEND=backend),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "out" / "cat-figure.png").is_file()


def test_a_matplotlib_without_a_cache_says_nothing(image, tmp_path):
    (tmp_path / "plain").touch()
    done = command(
        *(STARTED, "heads", image, "--size", 64, "--json", "--out", tmp_path / "out"),
        env=environment(MPLCONFIGDIR=str(tmp_path / "plain" / "x")),
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("words", [["heads"], ["page", "--json"]], ids=str)
def test_names_that_a_terminal_cannot_show(image, tmp_path, encoding, words):
    odd = os.fsencode(tmp_path) + b"/\xe9\xff \xe5\x90\x8d.png"
    os.rename(image, odd)
    done = command(
        *(STARTED, *words, os.fsdecode(odd), "--size", 64),
        env=environment(PYTHONIOENCODING=encoding),
        cwd=tmp_path,
        text=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["--help"], []], ids=str)
def test_what_could_not_be_printed_is_no_success(words):
    with Path("/dev/full").open("w") as full:
        done = command(
            "from attnchain.cli import main",
            *words,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            capture_output=False,
        )
    assert done.returncode == 1
    assert_one_line(done.stderr)


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "text"])
@pytest.mark.parametrize("closed", [False, True], ids=["full", "closed"])
def test_a_result_that_could_not_be_printed_names_its_files(
    image, tmp_path, options, closed
):
    if not closed and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code = "import sys; sys.stdout = None\n" * closed + STARTED
    with Path(os.devnull if closed else "/dev/full").open("w") as stdout:
        done = command(
            *(code, "heads", image, "--size", 64, "--out", tmp_path / "out", *options),
            env=environment(),
            stdout=stdout,
            stderr=subprocess.PIPE,
            capture_output=False,
        )
    assert done.returncode == 1
    assert "could not be printed" in done.stderr.splitlines()[-1]
    assert "cat-heads.json" in done.stderr
    assert (tmp_path / "out" / "cat-heads.json").is_file()


def test_the_package_can_be_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "attnchain", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("attnchain ")


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["segment", "--help"]])
def test_what_needs_no_model_needs_no_torch(words):
    code = """
import atexit, sys
atexit.register(lambda: print(*{"torch", "numpy", "scipy"} & {*sys.modules}, "none"))
from attnchain.cli import main"""
    done = command(code, *words, env=environment())
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].strip() == "none"


def test_importing_the_package_loads_torch_when_it_is_needed():
    code = """
import sys
import attnchain
assert "torch" not in sys.modules
assert attnchain.markov.propagate is attnchain.propagate
assert "torch" in sys.modules
assert set(attnchain.__all__) <= set(dir(attnchain))
print(hasattr(attnchain, "nothing"))
main = lambda: None"""
    done = command(code, env=environment())
    assert (done.stdout, done.stderr) == ("False\n", "")


SERVING = """
import attnchain.models
from tests.vision import tiny
attnchain.models.load = lambda _name: tiny.torch_only()
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from attnchain.cli import main
"""
BUSY = """
from attnchain.page import serving
import threading
def collect(*_, **__):
    print("working", flush=True)
    threading.Event().wait()
serving.collect = collect
"""


@contextmanager
def serving(tmp_path, code=SERVING):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code + "main()", "serve", "--port", "0"],
        env=environment(TMPDIR=str(temporary), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            line = process.stdout.readline()
            yield process, int(line.split("127.0.0.1:")[1].split("/")[0]), temporary
        finally:
            process.kill()


STOPS = {"interrupt": (signal.SIGINT, 0), "closed": (signal.SIGHUP, 129)}
STOPS["ended"] = (signal.SIGTERM, 143)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize(("stop", "code"), STOPS.values(), ids=STOPS.keys())
def test_a_server_that_is_stopped_leaves_nothing(image, tmp_path, stop, code, busy):
    import http.client

    with ExitStack() as stack:
        started = serving(tmp_path, SERVING + BUSY * busy)
        process, port, temporary = stack.enter_context(started)
        assert any(temporary.iterdir())
        if busy:
            asking = closing(http.client.HTTPConnection("127.0.0.1", port))
            asking = stack.enter_context(asking)
            asking.request("POST", "/pictures", image.read_bytes())
            assert process.stdout.readline() == "working\n"
        process.send_signal(stop)
        said = process.stderr.read()
        assert process.wait() == code
    assert "Traceback" not in said
    assert "Exception" not in said
    assert list(temporary.iterdir()) == []


def test_a_taken_port_is_said_before_the_model_is_loaded(run, monkeypatch):
    import socket

    def loaded(_name):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("attnchain.models.load", loaded)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(
            "sys.argv", ["attnchain", "serve", "--port", str(taken.getsockname()[1])]
        )
        from attnchain.cli import main

        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 2
