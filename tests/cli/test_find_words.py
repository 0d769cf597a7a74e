"""`attnchain words`: what it prints and writes, and what it refuses."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.ended import assert_one_line

from attnchain.models import LoadedPipeline, read_picture
from attnchain.testing.models import pipelines
from attnchain.text import read_words

ASKED = ("--words", "red,bag")


@pytest.fixture(scope="module")
def flux():
    return LoadedPipeline("tiny", "Random weights.", pipelines.flux())


@pytest.fixture
def find(run, monkeypatch, flux):
    monkeypatch.setattr("attnchain.models.load", lambda _name: flux)

    def find(*arguments, **options):
        return run("words", *arguments, **{"size": 16, **options})

    return find


@pytest.fixture
def refused(find):
    def refused(*arguments, **options):
        ended = find(*arguments, **options)
        assert ended.code == 2, ended.err
        assert_one_line(ended.err)
        assert (ended.out, ended.files) == ("", [])
        return ended.err

    return refused


def told(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_a_picture_is_divided_as_python_divides_it(find, image, flux):
    numbers = told(find(image, *ASKED, "--noise", "0.4", "--bounces", 3, "--json"))
    expected = read_words(
        flux, read_picture(image), ["red", "bag"], noise=[0.4], bounces=3, size=16
    )
    labels = np.array(Image.open(f"{image.parent}/out/cat-words-segments.png"))
    assert np.array_equal(labels, expected.segmentation.labels)
    assert numbers["prompt"] == "red, bag"
    assert numbers["settings"]["noise"] == [0.4]
    assert [entry["name"] for entry in numbers["legend"]] == ["red", "bag"]
    assert numbers["input_sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert len(numbers["weights_sha256"]) == 64
    assert {"python", "attnchain", "torch", "diffusers"} <= set(numbers["versions"])
    names = ["figure.png", "map-1.png", "map-2.png", "segments.png"]
    folder = image.parent / "out"
    wanted = [f"{folder}/cat-words-{name}" for name in names]
    assert numbers["files"] == [*wanted, f"{folder}/cat-words.json"]


def test_fewer_words_leave_no_older_map(find, image):
    find(image, "--words", "red,bag,cat")
    ended = find(image, "--words", "cat", "--prompt", "a cat and a bag")
    assert "cat: " in ended.out
    assert "rest: " in ended.out
    maps = [name for name in ended.files if "map" in str(name)]
    assert len(maps) == 1


def test_a_prompt_is_drawn(find, flux, tmp_path):
    drawn = ("--generate", "A red cat!", "--words", "red,cat", "--steps", 2)
    numbers = told(find(*drawn, "--seed", 3, "--json"))
    assert numbers["levels"] == ["step 1 of 2", "step 2 of 2"]
    assert numbers["image"] is None
    assert (numbers["settings"]["seed"], numbers["settings"]["n_steps"]) == (3, 2)
    options = {"num_inference_steps": 2, "max_sequence_length": 256}
    options |= {"height": 16, "width": 16, "prompt": "A red cat!"}
    generator = torch.Generator().manual_seed(3)
    picture = flux.pipeline(**options, generator=generator).images[0]
    written = Image.open(tmp_path / "out" / "a-red-cat-words-picture.png")
    assert np.array_equal(written, picture)
    again = told(find(*drawn, "--seed", 4, "--json"))
    assert again["files"][0].endswith("a-red-cat-2-words-figure.png")


def test_a_page_is_written_and_goes_when_it_is_not_asked_for(find, image):
    ended = find(image, *ASKED, "--page")
    assert "cat-words-page.html" in ended.files
    assert ended.json("cat-words.json")["settings"]["words"] == ["red", "bag"]
    assert "cat-words-page.html" not in find(image, *ASKED).files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "at least one word"),
        (("--words", " "), "at least one word"),
        (("--words", "red,,bag"), "words must look like"),
        (("--words", "red,Red"), "only once"),
        (("--words", "dog", "--prompt", "a cat"), "'dog' is not in the text"),
        (("--words", "dog", "--prompt", ""), "prompt is empty"),
        (("--words", "cat", "--prompt", "a " * 300 + "cat"), "beyond the 256"),
        ((*ASKED, "--noise", "much"), "noise must look like"),
        ((*ASKED, "--noise", "1.5"), "noise must lie"),
        ((*ASKED, "--steps", 2), "steps are of --generate"),
        ((*ASKED, "--generate", "a red bag"), "IMAGE has no meaning"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(refused, image, arguments, message):
    assert message in refused(image, *arguments)


def test_a_picture_or_a_prompt_is_needed(refused):
    assert "--generate PROMPT" in refused(*ASKED)


@pytest.mark.parametrize("option", [("--noise", "0.5"), ("--prompt", "a red bag")])
def test_a_drawing_has_neither_noise_nor_a_second_prompt(refused, option):
    assert "has no meaning" in refused("--generate", "a red bag", *ASKED, *option)


def test_a_picture_that_cannot_be_read(refused, tmp_path):
    (tmp_path / "x.png").write_bytes(b"nothing")
    assert "x.png" in refused(tmp_path / "x.png", *ASKED)
    assert "no such file" in refused(tmp_path / "none.png", *ASKED)


@pytest.fixture
def refused_model(run, image):
    """Asserts that a model is refused, with the loading code itself."""

    def refused(model, code=2):
        ended = run("words", image, *ASKED, model=model, size=16)
        assert (ended.code, ended.out, ended.files) == (code, "", [])
        assert_one_line(ended.err)
        return ended.err

    return refused


def test_a_model_without_text(refused_model, tiny_folder):
    said = refused_model(tiny_folder, code=1)
    assert "reads pictures, but a model that reads a prompt" in said


def test_a_model_that_nobody_knows(refused_model):
    assert "cannot load the model" in refused_model("no-such/folder/x")


def test_diffusers_is_missing(refused_model, flux, tmp_path, monkeypatch):
    flux.pipeline.save_pretrained(tmp_path / "flux")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert "attnchain[diffusers]" in refused_model(tmp_path / "flux")
