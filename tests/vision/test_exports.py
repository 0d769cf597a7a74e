"""Forms that other programs read, read back by them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from tests.vision import tiny

from attnchain.errors import ArgumentError
from attnchain.vision import Clicks, Prompt, segment, segment_prompt
from attnchain.vision.exports import EXPORTS, polygons

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))


@pytest.fixture(scope="module")
def thing(model):
    return segment(tiny.picture(), model=model, size=64, foreground=True)


@pytest.fixture(scope="module")
def several(model):
    return segment(tiny.picture(), model=model, size=64, sets=3)


@given(mask=MASKS)
def test_polygons_hold_the_centres_of_exactly_the_masks_pixels(mask):
    height, width = mask.shape
    y, x = np.mgrid[:height, :width] + 0.5
    centres = np.column_stack([x.ravel(), y.ravel()])
    crossed = np.zeros(height * width, dtype=int)
    for polygon in polygons(torch.tensor(mask)):
        for ring in polygon:
            crossed += Outline([*ring, ring[0]]).contains_points(centres)
    assert np.array_equal(crossed.reshape(mask.shape) % 2 == 1, mask)


@given(data=st.data())
def test_the_outer_ring_of_a_frame_has_its_hole(data):
    side = data.draw(st.integers(3, 8))
    mask = torch.ones(side, side, dtype=torch.bool)
    mask[1:-1, 1:-1] = False
    (frame,) = polygons(mask)
    assert len(frame) == 2


def test_coco_is_read_by_its_own_tools(several, tmp_path):
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(several.to_coco(image_id=7, file_name="cat.png")))
    read = COCO(str(file))
    assert read.loadImgs([7])[0]["file_name"] == "cat.png"
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == [*several.names]
    for number in read.getCatIds():
        name = read.loadCats([number])[0]["name"]
        found = read.loadAnns(read.getAnnIds([7], catIds=[number]))
        masks = several.instances(name).numpy()
        assert len(found) == len(masks)
        assert np.array_equal(masks.sum(0), several.mask(name).numpy())
        for annotation, mask in zip(found, masks, strict=True):
            assert np.array_equal(read.annToMask(annotation), mask)
            assert annotation["area"] == int(mask.sum())
            x, y, w, h = (int(edge) for edge in annotation["bbox"])
            assert int(mask[y : y + h, x : x + w].sum()) == int(mask.sum())


def test_an_object_is_one_category_and_the_rest_is_none(thing):
    found = thing.to_coco()
    assert [c["name"] for c in found["categories"]] == ["object"]
    (annotation,) = found["annotations"]
    run_lengths = annotation["segmentation"]
    decoded = coco_masks.decode(
        {
            "size": run_lengths["size"],
            "counts": run_lengths["counts"].encode(),
        }
    )
    assert np.array_equal(decoded.astype(bool), thing.mask("object").numpy())


def test_the_cut_out_is_clear_outside_the_object(thing, tmp_path):
    thing.save(tmp_path, stem="cat", files=("cutout", "overlay"))
    with Image.open(tmp_path / "cat-cutout.png") as cut:
        assert cut.mode == "RGBA"
        alpha = np.asarray(cut)[..., 3]
        colours = np.asarray(cut)[..., :3]
    assert np.array_equal(alpha == 255, thing.mask("object").numpy())
    assert set(np.unique(alpha)) <= {0, 255}
    assert np.array_equal(colours, np.asarray(tiny.picture().convert("RGB")))
    with Image.open(tmp_path / "cat-overlay.png") as overlay:
        drawn = np.asarray(overlay)
    rest = thing.mask("rest").numpy()
    assert np.array_equal(drawn[rest], colours[rest])
    assert (drawn[~rest] != colours[~rest]).any()


def test_every_form_is_saved_by_its_name_and_nothing_else(thing, tmp_path):
    files = thing.save(tmp_path, stem="cat", files=tuple(EXPORTS))
    expected = {"cat.json", *(f"cat{form.ending}" for form in EXPORTS.values())}
    assert {file.name for file in files} == expected
    assert {file.name for file in tmp_path.iterdir()} == expected
    thing.save(tmp_path, stem="cat", files=("polygons",))
    assert {f.name for f in tmp_path.iterdir()} == {"cat.json", "cat-polygons.json"}
    told = json.loads((tmp_path / "cat-polygons.json").read_text("utf-8"))
    assert [segment["name"] for segment in told["segments"]] == ["object"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("map", "goes with one object"), ("cutout", "one object"), ("mask", "no file is")],
)
def test_forms_that_do_not_fit_are_refused_and_nothing_is_left(
    several, tmp_path, name, says
):
    with pytest.raises(ArgumentError, match=says):
        several.save(tmp_path / "out", stem="cat", files=("labels", name))
    assert not (tmp_path / "out").exists()


def test_a_prompt_is_the_session_of_its_marks(attention):
    prompt = Prompt(
        points=((20, 11), (30, 12)), not_points=((2, 3),), box=(8, 4, 50, 30)
    )
    result = segment_prompt(attention, prompt)
    assert [mark.positive for mark in result.marks] == [True, True, True, False]
    assert result.labels[11, 20] == 1
    assert result.labels[3, 2] == 0


def test_a_prompt_keeps_the_order_of_its_marks(attention):
    on, off = ((20, 11), (2, 30)), ((30, 12), (40, 30))
    prompt = Prompt(points=on, not_points=off, order="-++-")
    result = segment_prompt(attention, prompt)
    session = Clicks(attention).add(*off[0], positive=False).add(*on[0]).add(*on[1])
    session = session.add(*off[1], positive=False)
    assert result.marks == session.marks
    assert torch.equal(result.maps, session.segment().maps)
    assert segment_prompt(attention, Prompt(on, off)).marks != result.marks


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ({}, "nothing says where"),
        ({"not_points": [(1, 2)]}, "nothing says where"),
        ({"points": [(1, 2, 3)]}, "each of points must be two numbers"),
        ({"box": (1, 2, 3)}, "a box must be left, top, right, bottom"),
        ({"points": [(1, 2)], "order": "+-"}, "the order must have a '\\+' for each"),
        ({"points": [(1, 2)], "order": "x"}, "of 1 points and a '-' for each of 0"),
        ({"box": (5, 2, 3, 8)}, "left < right"),
        ({"box": (0, 0, float("nan"), 8)}, "left < right"),
    ],
)
def test_marks_that_say_nothing_are_refused(marks, says):
    with pytest.raises(ArgumentError, match=says):
        Prompt(**marks)
