"""All answers of a folder on one page."""

import base64
import io
import json
import re

import pytest
from PIL import Image
from tests.vision import tiny

from attnchain.errors import ImageError
from attnchain.folder import contact_sheet
from attnchain.folder.contacts import Entry, Sheet
from attnchain.signing import UNSIGNED, signed


@pytest.fixture
def answers(tmp_path):
    """A picture with its answer, one without its picture, and a record of a failure."""
    picture = tmp_path / "cat <b>.png"
    tiny.picture().save(picture)
    out = tmp_path / "out"
    told = {"attnchain": UNSIGNED, "mode": "object", "names": ["rest", "object"]}
    for place, image, confidence in (
        ("a/cat", picture, 0.9),
        ("dog", tmp_path / "gone.png", 0.2),
        ("bird", tmp_path / "gone.png", None),
    ):
        file = out / f"{place}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = {**told, "image": str(image), "confidence": confidence}
        file.write_bytes(signed(json.dumps(whole).encode(), place))
    record = {"attnchain": UNSIGNED, "failed": {"broken.png": "it is <damaged>"}}
    whole = signed(json.dumps(record).encode(), "")
    (out / "attnchain-job.json").write_bytes(whole)
    (out / "foreign.json").write_text('{"mode": "object", "image": "x", "names": []}')
    return out


def test_failures_come_first_then_the_least_confident(answers):
    names = [entry.name for entry in contact_sheet(answers).entries]
    assert names == ["broken.png", "dog", "a/cat", "bird"]


def test_the_page_holds_the_pictures_and_no_markup_of_names(answers):
    page = contact_sheet(answers).html
    assert "it is &lt;damaged&gt;" in page
    (data,) = re.findall(r'base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.size == tiny.picture().size
    assert "http" not in page


def test_segments_are_tinted_at_the_size_of_a_thumbnail(answers):
    labels = Image.new("P", (640, 400), 1)
    labels.save(answers / "dog-segments.png")
    dog = next(e for e in contact_sheet(answers).entries if e.name == "dog")
    with Image.open(io.BytesIO(dog.thumbnail)) as shown:
        assert shown.size == (320, 200)


def test_names_are_text_even_where_they_look_like_markup():
    entry = Entry('"><script>', {"names": ["a", "b"], "mode": "sets"}, b"x")
    page = Sheet("<i>", (entry,)).html
    assert "<script>" not in page
    assert "<i>" not in page


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_folders_without_answers_are_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError):
        contact_sheet(tmp_path / name)
