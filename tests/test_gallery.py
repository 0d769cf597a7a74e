"""Every gallery script runs, and draws something."""

import runpy
from pathlib import Path

import matplotlib as mpl
import pytest

from attnchain.errors import ModelNotFoundError
from attnchain.models import load
from attnchain.testing.models import importable_torchvision

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("plot_*.py"))


@pytest.fixture(scope="module")
def _model():
    importable_torchvision()
    try:
        load()
    except ModelNotFoundError as error:
        pytest.skip(f"the packaged model cannot be had: {error}")


def test_there_are_scripts():
    assert "plot_segment.py" in SCRIPTS


@pytest.mark.slow
@pytest.mark.usefixtures("_model")
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run(script, monkeypatch):
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    plt.close("all")
    runpy.run_path(str(EXAMPLES / script))
    for number in shown:
        plt.figure(number).canvas.draw()
    assert shown
    plt.close("all")
