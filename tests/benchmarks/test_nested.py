"""The benchmark of nested tokens, run small, and its baseline against numpy."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "methods" / "nested.py"


@pytest.fixture
def script(monkeypatch):
    """The script as a module; the loader that it imports is forgotten again."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("nested_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("data", None)


@pytest.fixture
def data(tmp_path):
    """Noise in the files of Fashion-MNIST."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 90), ("t10k", 60)):
        pixels = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            sizes = np.array(values.shape, dtype=">u4").tobytes()
            packed = gzip.compress(
                bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()
            )
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(packed)
    return tmp_path


def test_the_command_writes_its_table_and_pictures(script, data, monkeypatch, capsys):
    out = data / "out"
    command = ["nested.py", "--data", str(data), "--out", str(out), "--steps", "2"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(script, "explained_variance", lambda losses: losses)  # 2 steps
    script.main()
    found = json.loads((out / "nested.json").read_text())
    assert set(found["error of the mean"]) == {"PCA", *script.RUNS}
    assert {len(v) for v in found["error of the mean"].values()} == {9}
    assert "| PCA |" in (out / "nested.md").read_text()
    assert (out / "nested.png").stat().st_size > 0
    assert (out / "nested-prefixes.png").stat().st_size > 0
    capsys.readouterr()
    script.main()
    assert "2 steps" not in capsys.readouterr().out  # every run is there already
    assert json.loads((out / "nested.json").read_text()) == found


def test_principal_components_are_those_of_a_singular_value_decomposition(script):
    pictures = torch.rand(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    errors = script.mean_errors(script.Principal(pictures, 3, 2), pictures)
    flat = pictures.flatten(1).double().numpy()
    squares = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2
    expected = [squares[2 * k :].sum() / flat.size / 4 for k in range(4)]
    np.testing.assert_allclose(errors.double().mean(1), expected, rtol=1e-4)


def test_the_probe_reads_what_is_linear(script):
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(600) % 10
    features = torch.eye(10)[classes] + 0.1 * torch.randn(600, 10, generator=generator)
    right = script.probe(features[:400], classes[:400], features[400:], classes[400:])
    assert float(right.float().mean()) > 0.99
    noise = torch.randn(600, 10, generator=generator)
    right = script.probe(noise[:400], classes[:400], noise[400:], classes[400:])
    assert float(right.float().mean()) < 0.25
