"""Masks from anywhere against hand-made ones."""

import json
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image
from tests.vision import tiny

from attnchain.errors import DataSetError
from attnchain.evaluate import own_data_set, score_masks
from attnchain.vision import segment

HALF = np.zeros((40, 64), np.uint8)
HALF[:, :32] = 1
LEFT = np.zeros((40, 64), np.uint8)
LEFT[:, :16] = 1


def stored(file, mask):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(file)


@pytest.fixture
def folders(tmp_path):
    """Truth and predictions: one that agrees, one that holds half of the object."""
    truth, made = tmp_path / "truth", tmp_path / "made"
    stored(truth / "a" / "1.png", HALF * 255)
    stored(truth / "b.png", HALF)
    stored(made / "a" / "1.bmp", HALF * 255)
    stored(made / "b.png", LEFT * 7)
    return made, truth


def test_overlaps_are_those_counted_by_hand(folders):
    scores = score_masks(*folders)
    assert scores.ious == {"a/1": 1.0, "b": 0.5}
    assert not scores.broken
    file = folders[0] / "a" / "1.bmp"
    assert {*scores.inputs} == {*scores.ious}
    assert scores.inputs["a/1"]["prediction"] == sha256(file.read_bytes()).hexdigest()
    rest, object_ = (1280 + 1280) / (1280 + 1280 + 640), (1280 + 640) / 2560
    assert scores.class_mean == pytest.approx((rest + object_) / 2)
    cells = dict(scores.table().rows)
    assert cells["mean IoU"] == 0.75
    assert cells["share of masks with IoU of at least .5"] == 1.0


def test_void_pixels_are_left_out(folders):
    made, truth = folders
    trimap = HALF * 255
    trimap[:, 16:32] = 128
    stored(truth / "b.png", trimap)
    assert score_masks(made, truth, void=128).ious["b"] == 1.0
    told = score_masks(made, truth).broken["b"]
    assert "told by void (on the command line --void 128)" in told


def test_what_attnchain_wrote_is_found_by_the_pictures_name(tmp_path):
    result = segment(tiny.picture(), model=tiny.dinov2(), size=64, foreground=True)
    result.save(tmp_path / "made", stem="cat")
    stored(
        tmp_path / "truth" / "cat.png", result.mask("object").numpy() * np.uint8(255)
    )
    scores = score_masks(tmp_path / "made", tmp_path / "truth")
    assert scores.ious == {"cat": 1.0}
    sets = segment(tiny.picture(), model=tiny.dinov2(), size=64, sets=3)
    sets.save(tmp_path / "made", stem="cat")
    broken = score_masks(tmp_path / "made", tmp_path / "truth").broken
    assert "does not say which is the object" in broken["cat"]


def test_what_cannot_be_scored_is_named_and_the_rest_goes_on(folders):
    made, truth = folders
    stored(truth / "c.png", HALF)
    stored(truth / "d.png", HALF)
    stored(made / "d.png", HALF[:, :20])
    stored(truth / "e.png", np.full((40, 64), 128, np.uint8))
    stored(made / "e.png", HALF)
    stored(made / "extra.png", HALF)
    scores = score_masks(made, truth, void=128)
    assert {*scores.ious} == {"a/1", "b"}
    assert "expected a mask called c" in scores.broken["c"]
    assert "expected a mask of 64 x 40 pixels, but it has 20 x 40" in scores.broken["d"]
    assert "void in every pixel" in scores.broken["e"]
    assert any("extra" in note for note in scores.notes)


def test_empty_folders_are_refused(tmp_path, folders):
    made, truth = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataSetError, match="holds no mask"):
        score_masks(made, tmp_path / "empty")
    with pytest.raises(DataSetError, match="there is none"):
        score_masks(tmp_path / "missing", truth)


def test_data_of_ones_own_are_read_as_any_other(folders, tmp_path):
    _, truth = folders
    images = tmp_path / "images"
    for name in ("a/1.jpg", "b.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        tiny.picture().save(images / name)
    data = own_data_set(images, truth)
    assert data.names == ("a/1", "b")
    assert torch.equal(data.truth("b")[0], torch.from_numpy(HALF).long())
    (truth / "b.png").unlink()
    with pytest.raises(DataSetError, match="1 pictures without labels"):
        own_data_set(images, truth)


def test_the_commands_say_what_the_functions_do(folders, tmp_path, monkeypatch, capsys):
    from attnchain.cli import main

    made, truth = folders
    (made / "b.png").unlink()
    argv = ["attnchain", "score", made, truth, "--out", tmp_path / "out", "--json"]
    monkeypatch.setattr("sys.argv", [*map(str, argv)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ious"] == {"a/1": 1.0}
    assert {*told["broken"]} == {"b"}
    assert told["means"]["mean IoU"] == 1.0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["folder", "x"], "takes --images and --masks"),
        (["folder", "--images", "x"], "takes --images and --masks"),
        (["grabcut"], "give the folder of the data"),
        (["grabcut", "x", "--void", "3"], "go with the layout folder"),
        (["folder", "--images", "x", "--masks", "y", "--name", "a/b"], "is no path"),
        (["folder", "--images", "x", "--masks", "y"], "x does not exist"),
    ],
)
def test_options_of_ones_own_data_are_checked(args, says, monkeypatch, capsys):
    from attnchain.cli import main

    monkeypatch.setattr("sys.argv", ["attnchain", "evaluate", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_a_void_value_that_is_the_object_is_refused(folders):
    made, truth = folders
    for name in ("a/1.png", "b.png"):
        stored(truth / name, HALF * 255)
    with pytest.raises(DataSetError, match="255 is mostly the object"):
        score_masks(made, truth, void=255)
