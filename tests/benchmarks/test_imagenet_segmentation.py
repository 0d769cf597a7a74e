"""The protocol of ImageNet-Segmentation, end to end on random pipelines."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score
from tests.evaluate import folders

from attnchain.errors import DataSetError, OutputError
from attnchain.evaluate import open_data_set
from attnchain.testing.models import pipelines
from attnchain.text import read_diffusion

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "words" / "imagenet_segmentation.py"
NAMES = "n02121808\tcat, domestic cat\nn02084071\tdog\n"
KINDS = ["n02121808_7", "n02084071_12"]


@pytest.fixture(scope="module")
def script():
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Generated data with WordNet numbers, and names for them."""
    place = tmp_path_factory.mktemp("data")
    file = folders.imagenet(place / "gtsegs_ijcv.mat")
    with h5py.File(file, "r+") as opened:
        reference = h5py.special_dtype(ref=h5py.Reference)
        ids = opened.create_dataset("value/id", (len(KINDS), 1), dtype=reference)
        for i, kind in enumerate(KINDS):
            code = np.array([[ord(letter)] for letter in kind], np.uint16)
            ids[i, 0] = opened.create_dataset(f"number/{i}", data=code).ref
    (place / "words.txt").write_text(NAMES)
    return place


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Saves the tiny pipelines, once each."""
    root = tmp_path_factory.mktemp("weights")

    def saved(name):
        if not (root / name).exists():
            pipeline = getattr(pipelines, name)()
            if pipeline.vae.config.shift_factor is None:
                pipeline.vae.register_to_config(shift_factor=0.1)
            pipeline.save_pretrained(root / name)
        return root / name

    return saved


@pytest.fixture
def given(script, place, weights, tmp_path):
    """The arguments of a run, and those to change."""

    def arguments(name="flux", *, out=tmp_path / "out", **changed):
        options = {"model": weights(name), "data": place, "out": out, "size": 16}
        options |= {"names": place / "words.txt", "bounces": 2} | changed
        words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
        return script.arguments(words)

    return arguments


@pytest.mark.parametrize("name", ["flux", "stable_diffusion_3", "stable_diffusion"])
def test_every_cell_of_every_picture_is_scored(script, given, name):
    args = given(name)
    table, sums = script.run(args)
    assert len(table.rows) == 2 * 2 * 2
    assert sums["pictures"] == 2
    for cell in sums["cells"].values():
        assert cell["pooled mIoU"] == pytest.approx(cell["Acc"] / (2 - cell["Acc"]))
    written = json.loads((args.out / "scores.json").read_text())
    assert written["cells"].keys() == sums["cells"].keys()


def test_scores_are_those_written_out_by_hand(script, given, place):
    args = given(bounces=1)
    worker = script.Worker(args, {"0001": "dog"})
    _, found = worker.answer("0001")
    data = open_data_set("imagenet-segmentation", place)
    picture = data.picture("0001").resize((512, 512), Image.Resampling.BICUBIC)
    shown = {"size": 16, "weights": "uniform", "layers": [0, 1]}
    read = read_diffusion(worker.pipeline, picture, "a dog", **shown)
    map_ = read.grid.to_map(read.walk("dog", 1)).double()
    score = ((map_ - map_.min()) / (map_.max() - map_.min())).numpy()
    rows, columns = ((np.arange(224) * side // 224) for side in score.shape)
    score = score[np.ix_(rows, columns)]
    truth = data.truth("0001")[0].numpy()
    rows, columns = ((np.arange(224) * side // 224) for side in truth.shape)
    truth = truth[np.ix_(rows, columns)]
    mask = score > score.mean()
    *counts, precision = found["column select, n = 1, uniform"]
    expected = [((truth == t) & (mask == m)).sum() for t in (0, 1) for m in (0, 1)]
    assert counts == expected
    stacked = np.stack([1 - score, score]).ravel()
    target = np.stack([1 - truth, truth]).ravel()
    assert precision == pytest.approx(
        average_precision_score(target, stacked), abs=1e-4
    )


def test_a_run_goes_on_where_it_was(script, given, monkeypatch):
    args = given(count=1)
    script.run(args)
    first = args.out / "pictures" / "0000.json"
    before = first.stat().st_mtime_ns
    whole = given()
    _, sums = script.run(whole)
    assert first.stat().st_mtime_ns == before
    assert sums["pictures"] == 2
    (args.out / "pictures" / "0001.json").unlink()
    assert script.run(whole)[1] == sums
    with pytest.raises(OutputError, match="other settings"):
        script.run(given(noise=0.3))
    first.write_text("{")
    with pytest.raises(OutputError, match="is damaged"):
        script.run(whole)


def test_numbers_without_a_name_are_counted(script, given, tmp_path):
    names = tmp_path / "words.txt"
    names.write_text("n02121808 cat\n")
    with pytest.raises(DataSetError, match=r"1 of 2 .* such as 'n02084071'"):
        script.run(given(names=names))


def test_data_that_do_not_say_what_they_show(script, given, tmp_path):
    folders.imagenet(tmp_path / "gtsegs_ijcv.mat")
    with pytest.raises(DataSetError, match="value/id"):
        script.run(given(data=tmp_path))


def test_flux_is_read_in_its_last_ten_blocks(script):
    class FluxPipeline:
        transformer = SimpleNamespace(config=SimpleNamespace(num_layers=19))

    assert script.last_ten(FluxPipeline()) == range(9, 19)
    assert script.last_ten(object()) is None


def test_names_are_read_from_both_lists(script, tmp_path):
    for text in ("n1\tice cream, icecream\n", "n1 ice cream, icecream\n"):
        (tmp_path / "names").write_text(text)
        assert script.read_names(tmp_path / "names") == {"n1": "ice cream"}


@pytest.mark.parametrize("wrong", [{"workers": 2}, {"count": 0}, {"bounces": 0}])
def test_arguments_that_cannot_be_end_at_once(given, wrong):
    with pytest.raises(SystemExit):
        given(**wrong)


@pytest.mark.slow
def test_workers_of_ray_find_the_same(script, given, place, weights, tmp_path):
    pytest.importorskip("ray")
    _, expected = script.run(given("stable_diffusion"))
    options = {"model": weights("stable_diffusion"), "data": place, "bounces": 2}
    options |= {"names": place / "words.txt", "out": tmp_path / "ray", "size": 16}
    options |= {"engine": "ray", "workers": 2}
    words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "ray" / "scores.json").read_text())
    assert "column select, n = 2, lambda2" in done.stdout
    for cell, values in expected["cells"].items():
        assert found["cells"][cell]["Acc"] == pytest.approx(values["Acc"], abs=1e-3)
