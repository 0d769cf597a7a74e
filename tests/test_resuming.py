"""Where a training stands is kept whole, and taken up under the same settings only."""

import pytest
import torch

from attnchain.errors import ArgumentError
from attnchain.resuming import load_state, save_state

SETTINGS = {"epochs": 3, "rate": 0.1}


def test_a_state_comes_back_as_it_was(tmp_path):
    file, weights = tmp_path / "run.pt", torch.arange(3.0)
    save_state(file, SETTINGS, {"weights": weights, "history": [(1.0, 2.0)]})
    state = load_state(file, dict(SETTINGS))
    assert state["history"] == [(1.0, 2.0)]
    torch.testing.assert_close(state["weights"], weights)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_other_settings_are_named(tmp_path):
    file = tmp_path / "run.pt"
    save_state(file, SETTINGS, {})
    with pytest.raises(ArgumentError, match=r"other settings .*'epochs': 3"):
        load_state(file, {**SETTINGS, "epochs": 4})


def written(kind, file):
    if kind == "text":
        file.write_text("not a training")
    elif kind == "cut":
        save_state(file, SETTINGS, {"weights": torch.ones(1000)})
        file.write_bytes(file.read_bytes()[:500])
    else:
        torch.save({"other": 1}, file)


@pytest.mark.parametrize("kind", ["text", "cut", "another"])
def test_a_file_that_is_no_training_is_refused_and_left(kind, tmp_path):
    file = tmp_path / "run.pt"
    written(kind, file)
    before = file.read_bytes()
    with pytest.raises(ArgumentError, match="holds no training"):
        load_state(file, SETTINGS)
    assert file.read_bytes() == before
