"""The benchmark scripts, run small: training, sampling, scores, and the SD recipe."""

import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import sqrtm

from attnchain.errors import OutputError

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
            write_idx(tmp_path / f"{part}-{kind}-ubyte.gz", values)
    return tmp_path


@pytest.fixture
def digits(tmp_path):
    """scikit-learn's digits, enlarged, in the files of Fashion-MNIST."""
    from PIL import Image

    sets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn")
    small = sets.load_digits()
    pixels = [
        np.asarray(Image.fromarray(one).resize((28, 28)))
        for one in (small.images * 255 / 16).astype(np.uint8)
    ]
    labels = small.target.astype(np.uint8)
    for part, rows in (("train", slice(1200)), ("t10k", slice(1200, None))):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.stack(pixels)[rows])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", labels[rows])
    return tmp_path


def write_idx(path, values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


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
    from attnchain.guidance import AttentionGuidance
    from attnchain.operators import AttentionTransition

    guidance = scripts("sample").guidance_of("shuffled-s1")
    q, k = torch.randn(2, 3, 2, 16, 4)
    grid = TokenGrid(4, 4)
    plain = AttentionGuidance().mask(AttentionTransition(q, k), grid)
    moved = guidance.mask(AttentionTransition(q, k), grid)
    assert torch.equal(plain.sum((1, 2)), moved.sum((1, 2)))
    assert not torch.equal(plain, moved)


def test_digits_go_all_the_way_to_a_table(
    scripts, digits, tmp_path, monkeypatch, capsys
):
    model, network = tmp_path / "dit.safetensors", tmp_path / "net.safetensors"
    call = ["--data", digits, "--steps", 6, "--batch", 16, "--report", 3]
    run(scripts("train_dit"), monkeypatch, *call, "--out", model)
    call = ["--data", digits, "--epochs", 4, "--batch", 64, "--out", network]
    run(scripts("classifier"), monkeypatch, *call)
    assert float(capsys.readouterr().out.split()[-1]) > 0.5
    sample = scripts("sample")
    monkeypatch.setattr(sample, "CHUNK", 20)
    call = ["--model", model, "--out", tmp_path / "runs", "--count", 40, "--steps", 2]
    call += ["--cells", "none", "sag-s1", "rank-s1", "--seeds", 0, 1]
    run(sample, monkeypatch, *call)
    call = ["--runs", tmp_path / "runs", "--data", digits, "--classifier", network]
    call += ["--count", 40, "--out", tmp_path / "scores.json"]
    run(scripts("score"), monkeypatch, *call)
    scores = json.loads((tmp_path / "scores.json").read_text())["40"]
    assert set(scores) == {"none", "sag-s1", "rank-s1", "real pictures, held out"}
    assert len(scores["rank-s1"]) == 2
    for rows in scores.values():
        assert all(np.isfinite(list(row.values())).all() for row in rows)
    real, made = (scores[name][0]["FD"] for name in ("real pictures, held out", "none"))
    assert real < made
    assert "| rank-s1 | 2 x 40 |" in capsys.readouterr().out


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


def test_inception_score_of_splits_is_theirs_one_by_one(scripts):
    metrics = scripts("metrics")
    p = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    values = [metrics.inception_score(p[3 * i : 3 * i + 3]) for i in range(10)]
    mean, deviation = metrics.inception_score_of_splits(p)
    assert mean == pytest.approx(np.mean(values))
    assert deviation == pytest.approx(np.std(values))


def test_few_pictures_still_have_a_kernel_distance(scripts):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 50, 3))
    distance = scripts("metrics").kernel_distance
    assert distance(x, y) == distance(x, y, block=50)


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


@pytest.fixture
def recipe(scripts, tmp_path):
    """The script of Stable Diffusion, and its arguments for tiny pictures."""
    from PIL import Image

    (tmp_path / "real").mkdir()
    draw = np.random.default_rng(0)
    for i in range(4):
        pixels = draw.integers(0, 256, (8 + i, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{i}.png")
    torch.jit.script(Inception()).save(tmp_path / "inception.pt")
    given = ["--model", "tiny", "--out", tmp_path / "runs", "--count", 3]
    given += ["--steps", 2, "--size", 8, "--batch", 2]
    given += ["--reference", tmp_path / "real"]
    given += ["--features", tmp_path / "inception.pt"]
    script = scripts("released")
    return script, lambda *more: script.arguments([str(x) for x in (*given, *more)])


def recipe_run(script, pipeline, args):
    return script.run(script.Worker(args, pipeline), args)


@pytest.mark.parametrize(
    ("name", "engine"),
    [("flux", "local"), ("stable_diffusion_3", "local"), ("flux", "ray")],
)
def test_every_released_family_is_drawn_from_its_folder(
    recipe, tmp_path, monkeypatch, name, engine
):
    from PIL import Image

    from attnchain.testing.models import pipelines

    if engine == "ray":
        pytest.importorskip("ray")
        paths = [str(FOLDER), *sys.path]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    getattr(pipelines, name)().save_pretrained(tmp_path / "model")
    script, arguments = recipe
    more = ["--model", tmp_path / "model", "--methods", "none", "rank"]
    more += ["--engine", engine] + ["--workers", 2] * (engine == "ray")
    args = arguments(*more, "--count", 4, "--batch", 1, "--size", 16)
    with script.workers_of(args) as workers:
        scores = script.run(workers, args)
    assert {name: row["pictures"] for name, row in scores.items()} == {
        "none": 4,
        "rank-s0.75": 4,
    }
    if engine == "ray":
        alone = arguments(*more[:5], "--count", 4, "--batch", 2, "--size", 16)
        alone.out = tmp_path / "alone"
        script.make_pictures(script.Worker(alone), "rank", alone)
        file = Path("rank-s0.75") / "000003.png"
        pixels = [np.asarray(Image.open(a.out / file)) for a in (args, alone)]
        assert np.abs(pixels[0].astype(int) - pixels[1]).max() <= 1


def test_the_recipe_of_stable_diffusion_makes_scores_and_resumes(
    scripts, recipe, stable_diffusion, tmp_path, capsys
):
    script, arguments = recipe
    args = arguments()
    scores = recipe_run(script, stable_diffusion, args)
    assert set(scores) == {"none", "sag-s0.75", "rank-s0.75"}
    assert "rank-s0.75: 2 of 3" in capsys.readouterr().out
    for values in scores.values():
        assert values["pictures"] == 3
        assert all(np.isfinite(value) for value in values.values())
        assert 1 <= values["IS"] <= 3
        assert values["IS of 10 splits"] == pytest.approx(1)
    last = tmp_path / "runs" / "rank-s0.75" / "000002.png"
    settings = scripts("outputs").read_settings(last)
    assert settings["seed"] == 2
    assert settings["guidance"]["salience"]["kind"] == "token_rank"
    assert settings["scheduler"] == "DDIMScheduler"
    assert settings["size"] == 8
    assert settings["versions"]["torch"] == torch.__version__
    before = last.read_bytes()
    last.unlink()
    assert recipe_run(script, stable_diffusion, args) == scores
    assert last.read_bytes() == before


def test_scores_of_other_methods_and_scales_are_kept(
    recipe, stable_diffusion, tmp_path
):
    script, arguments = recipe
    for scale in ("0.75", "1.5"):
        args = arguments("--methods", "none", "rank", "--scale", scale)
        recipe_run(script, stable_diffusion, args)
    kept = json.loads((tmp_path / "runs" / "scores.json").read_text())
    assert set(kept) == {"none", "rank-s0.75", "rank-s1.5"}


def test_two_precisions_do_not_mix(recipe, stable_diffusion):
    script, arguments = recipe
    recipe_run(script, stable_diffusion, arguments("--methods", "none"))
    with pytest.raises(OutputError, match="made with other settings"):
        recipe_run(
            script,
            stable_diffusion,
            arguments("--methods", "none", "--dtype", "float16"),
        )


def test_the_controls_blur_everything_and_other_places(
    scripts, recipe, stable_diffusion, tmp_path
):
    script, arguments = recipe
    args = arguments("--methods", "all", "rank", "shuffled", "--size", "16")
    first = recipe_run(script, stable_diffusion, args)
    folders = [tmp_path / "runs" / name for name in first]
    pictures = [(folder / "000000.png").read_bytes() for folder in folders]
    assert len(set(pictures)) == 3
    read_settings = scripts("outputs").read_settings
    assert read_settings(folders[0] / "000000.png")["guidance"]["threshold"] == -1.0
    last = tmp_path / "runs" / "shuffled-s0.75" / "000001.png"
    before = last.read_bytes()
    last.unlink()
    recipe_run(script, stable_diffusion, args)
    assert last.read_bytes() == before


def test_real_pictures_are_cropped_to_their_middle_square(recipe, tmp_path):
    from PIL import Image

    script, _ = recipe
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = script.pixels_of(tmp_path / "wide.png", 4)
    assert found.shape == (4, 4, 3)
    assert (found == 200).all()
    made = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(made).save(tmp_path / "made.png")
    assert np.array_equal(script.pixels_of(tmp_path / "made.png", 8), made)


def test_what_is_missing_is_named_before_pictures_are_made(recipe, tmp_path, capsys):
    _, arguments = recipe
    (tmp_path / "empty").mkdir()
    for given, words in (
        (("--features", tmp_path / "no.pt"), "no.pt is no file"),
        (("--reference", tmp_path / "empty"), "holds no .png or .jpg"),
        (("--reference", tmp_path / "nowhere"), "holds no .png or .jpg"),
        (("--dtype", "float31"), "invalid choice"),
        (("--device", "nowhere"), "--device nowhere cannot be used here"),
    ):
        with pytest.raises(SystemExit):
            arguments(*given)
        assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named_first(recipe, capsys):
    _, arguments = recipe
    with pytest.raises(SystemExit):
        arguments("--device", "cuda")
    assert "--device cuda cannot be used here" in capsys.readouterr().err


def test_the_recipe_wants_features_and_reference_together(scripts, capsys):
    with pytest.raises(SystemExit):
        scripts("released").arguments(["--model", "m", "--out", "o", "--features", "f"])
    assert "belong together" in capsys.readouterr().err
