"""The benchmark scripts, run small: training, sampling, scores, and the SD recipe."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import sqrtm

from attnchain.tasks.guidance.outputs import read_settings

FOLDER = Path(__file__).parents[2] / "benchmarks" / "guidance"


@pytest.fixture
def scripts(monkeypatch):
    """Imports scripts by name; they see each other, and leave nothing behind."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def data(tmp_path):
    """Noise in the files of Fashion-MNIST."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 300), ("t10k", 300)):
        for kind, shape in (
            ("images-idx3", (count, 28, 28)),
            ("labels-idx1", (count,)),
        ):
            top = 256 if len(shape) == 3 else 10
            values = draw.integers(0, top, shape, dtype=np.uint8)
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            packed = gzip.compress(header + values.tobytes())
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(packed)
    return tmp_path


def run(script, monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, given)])
    script.main()


def test_pictures_are_read_into_minus_one_to_one(scripts, data):
    pictures, labels = scripts("data").load(data, "t10k")
    assert pictures.shape == (300, 1, 28, 28)
    assert pictures.min() == -1
    assert pictures.max() == 1
    assert labels.unique().tolist() == list(range(10))


def test_an_interrupted_training_ends_with_the_same_weights(
    scripts, data, tmp_path, monkeypatch
):
    script = scripts("train_dit")
    call = ["--data", data, "--steps", 4, "--batch", 2, "--report", 2]
    run(script, monkeypatch, *call, "--out", tmp_path / "a.safetensors")
    real, count = script.loss_of, []

    def breaking(*args):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(script, "loss_of", breaking)
    with pytest.raises(KeyboardInterrupt):
        run(script, monkeypatch, *call, "--out", tmp_path / "b.safetensors")
    monkeypatch.setattr(script, "loss_of", real)
    run(script, monkeypatch, *call, "--out", tmp_path / "b.safetensors")
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(tmp_path.glob("*.resume.pt"))


def test_sampling_resumes_and_cells_share_their_noise(
    scripts, data, tmp_path, monkeypatch
):
    run_dir = tmp_path / "runs"
    script = scripts("sample")
    monkeypatch.setattr(script, "CHUNK", 4)
    call = ["--model", FOLDER / "fashion_dit.safetensors", "--out", run_dir]
    call += ["--steps", 3, "--cells", "none", "rank-s0", "rank-out-s1-g2"]
    run(script, monkeypatch, *call, "--count", 4)
    first = run_dir / "rank-out-s1-g2" / "seed0" / "000.npz"
    made = first.stat().st_mtime_ns
    run(script, monkeypatch, *call, "--count", 8)
    assert first.stat().st_mtime_ns == made
    assert first.with_name("001.npz").exists()
    cells = {
        path.parents[1].name: np.load(path) for path in run_dir.glob("*/seed0/000.npz")
    }
    assert np.array_equal(cells["none"]["pixels"], cells["rank-s0"]["pixels"])
    guided = cells["rank-out-s1-g2"]
    assert not np.array_equal(cells["none"]["pixels"], guided["pixels"])
    settings = json.loads(str(guided["settings"]))
    assert settings["salience"]["direction"] == "outgoing"
    assert settings["blur_sigma"] == 2.0


def test_the_shuffled_control_keeps_the_area(scripts):
    from attnchain.capturing import TokenGrid
    from attnchain.operators import AttentionTransition
    from attnchain.tasks.guidance import AttentionGuidance

    guidance = scripts("sample").guidance_of("shuffled-s1")
    q, k = torch.randn(2, 3, 2, 16, 4)
    grid = TokenGrid(4, 4)
    plain = AttentionGuidance().mask(AttentionTransition(q, k), grid)
    moved = guidance.mask(AttentionTransition(q, k), grid)
    assert torch.equal(plain.sum((1, 2)), moved.sum((1, 2)))
    assert not torch.equal(plain, moved)


def test_frechet_distance_is_the_formula_with_scipys_root(scripts):
    metrics = scripts("metrics")
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 50, 4))
    (m, c), (n, d) = metrics.moments(a), metrics.moments(2 * b + 1)
    expected = ((m - n) ** 2).sum() + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert metrics.frechet_distance(m, c, n, d) == pytest.approx(expected)
    assert metrics.frechet_distance(m, c, m, c) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_unbiased_and_grows(scripts):
    distance = scripts("metrics").kernel_distance
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 4000, 3))
    same = distance(x, y, block=200)
    assert abs(same) < 0.02
    assert distance(x, y + 0.5, block=200) > 10 * abs(same)
    n, total = 5, 0.0
    for i in range(n):
        for j in range(n):
            k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
            if i != j:
                total += (k(x[i], x[j]) + k(y[i], y[j])) / (n * (n - 1))
            total -= 2 * k(x[i], y[j]) / n**2
    assert distance(x[:n], y[:n], block=n) == pytest.approx(total)


def test_inception_score_lies_between_one_and_the_classes(scripts):
    score = scripts("metrics").inception_score
    assert score(np.full((8, 4), 0.25)) == pytest.approx(1)
    assert score(np.eye(4).repeat(3, 0)) == pytest.approx(4)


def test_precision_and_recall_see_what_is_missing(scripts):
    both = scripts("metrics").precision_recall
    draw = np.random.default_rng(0)
    left, right = draw.normal(size=(2, 200, 2)) + np.array([-20, 20])[:, None, None]
    real = np.concatenate([left, right])
    assert both(real, left + 1e-3)[0] == 1.0
    assert both(real, left + 1e-3)[1] == pytest.approx(0.5, abs=0.05)
    assert both(left, real)[0] == pytest.approx(0.5, abs=0.05)


class Inception(torch.nn.Module):
    """Called like the FID's network; features are mean colours."""

    def forward(
        self,
        pictures: torch.Tensor,
        return_features: bool = False,
        no_output_bias: bool = False,
    ) -> torch.Tensor:
        colours = pictures.float().mean((2, 3)) / 255
        return colours if return_features else colours.softmax(-1)


def test_the_recipe_of_stable_diffusion_makes_scores_and_resumes(
    scripts, stable_diffusion, tmp_path
):
    from PIL import Image

    script = scripts("sd15")
    (tmp_path / "real").mkdir()
    draw = np.random.default_rng(0)
    for i in range(4):
        pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{i}.png")
    torch.jit.script(Inception()).save(tmp_path / "inception.pt")
    given = ["--model", "tiny", "--out", tmp_path / "runs", "--count", 3]
    given += ["--steps", 2, "--size", 8, "--batch", 2]
    given += ["--reference", tmp_path / "real"]
    given += ["--features", tmp_path / "inception.pt"]
    args = script.arguments([str(part) for part in given])
    scores = script.run(stable_diffusion, args)
    assert set(scores) == {"none", "sag", "rank"}
    for values in scores.values():
        assert values["pictures"] == 3
        assert all(np.isfinite(value) for value in values.values())
        assert 1 <= values["IS"] <= 3
    assert json.loads((tmp_path / "runs" / "scores.json").read_text()) == scores
    last = tmp_path / "runs" / "rank-s0.75" / "000002.png"
    settings = read_settings(last)
    assert settings["seed"] == 2
    assert settings["guidance"]["salience"]["kind"] == "token_rank"
    before = last.read_bytes()
    last.unlink()
    assert script.run(stable_diffusion, args) == scores
    assert last.read_bytes() == before


def test_the_recipe_wants_features_and_reference_together(scripts, capsys):
    with pytest.raises(SystemExit):
        scripts("sd15").arguments(["--model", "m", "--out", "o", "--features", "f"])
    assert "belong together" in capsys.readouterr().err
