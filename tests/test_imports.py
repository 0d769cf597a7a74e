"""Importing changes nothing, loads torch and nothing heavier; layers are kept."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("transformers", "timm", "diffusers", "scipy", "matplotlib", "PIL", "onnx")
PARTS = (
    "operators",
    "markov",
    "capturing",
    "models",
    "ranking",
    "vision",
    "text",
    "guidance",
    "methods",
    "plot",
    "cli",
)

SCRIPT = """
import importlib, json, random, signal, sys, warnings
import numpy, torch
def state():
    return [
        repr(warnings.filters), repr(warnings.showwarning), repr(sys.excepthook),
        repr(signal.getsignal(signal.SIGTERM)), repr(torch.get_default_dtype()),
        torch.get_num_threads(), torch.initial_seed(), torch.is_grad_enabled(),
        repr(random.getstate()), repr(torch.nn.functional.scaled_dot_product_attention),
        repr(numpy.geterr()),
    ]
before, loaded, report = state(), set(sys.modules), {}
for name in sys.argv[1:]:
    if name == "attnchain.cli":
        report["changed"] = [a for a, b in zip(before, state()) if a != b]
    importlib.import_module(name)
    report[name] = sorted(set(sys.modules) - loaded)
sys.stderr.write(json.dumps(report))
"""


@pytest.fixture(scope="module")
def fresh():
    """What a new process prints, loads and changes when it imports the parts.

    The command line comes last and may change more: rich draws a random number.
    """
    names = ["attnchain", *(f"attnchain.{part}" for part in PARTS)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *names],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stderr)


@pytest.mark.parametrize("name", ["attnchain", *(f"attnchain.{p}" for p in PARTS)])
def test_nothing_heavy_is_loaded(fresh, name):
    loaded = {module.partition(".")[0] for module in fresh[1][name]}
    assert "attnchain" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_command_line_is_not_loaded_by_the_library(fresh):
    loaded = {module.partition(".")[0] for module in fresh[1]["attnchain"]}
    assert loaded.isdisjoint({"typer", "rich", "click"})


def test_nothing_is_printed(fresh):
    assert fresh[0] == ""


def test_nothing_of_the_process_is_changed(fresh):
    assert fresh[1]["changed"] == []


def test_import_layers_are_kept():
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
