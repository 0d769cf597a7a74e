"""Objects cut out in the browser: marks in, the mask under them out."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from tests.page.test_serving import ask, png, running, said

from attnchain.page.cutting import Cutting, marks_in
from attnchain.vision import Prompt, segment

POINT = {"point": [60, 30], "positive": True}
OFF = {"point": [5, 5], "positive": False}
BOX = {"box": [38, 4, 78, 50]}


@pytest.fixture(scope="module")
def server(tiny):
    with running(tiny) as started:
        yield started


@pytest.fixture
def address(server, picture):
    named = {"X-Picture-Name": "my%20picture.png"}
    status, content, _ = ask(server, "POST", "/objects", png(picture), **named)
    assert status == 201
    return json.loads(content)["page"]


def shown(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as stored:
        return np.asarray(stored)


@pytest.mark.parametrize(
    ("marks", "prompt"),
    [
        ([POINT, OFF], Prompt(points=((60, 30),), not_points=((5, 5),))),
        ([BOX, POINT], Prompt(points=((60, 30),), box=(38, 4, 78, 50))),
    ],
)
def test_the_mask_is_that_of_the_same_marks_in_python(  # noqa: PLR0917
    server, address, tiny, picture, marks, prompt
):
    status, content, _ = ask(server, "POST", address, json.dumps(marks))
    assert status == 200
    answer = json.loads(content)
    expected = segment(picture, model=tiny, prompt=prompt).mask("object").numpy()
    np.testing.assert_array_equal(shown(answer["mask"]), expected * np.uint8(255))
    assert answer["share"] == pytest.approx(expected.mean())
    assert answer["facts"]["image"] == "my picture.png"
    assert len(answer["facts"]["marks"]) == len(marks)
    assert answer["facts"]["polygons"]
    place = address.replace("objects", "cutouts")
    status, content, _ = ask(server, "POST", place, json.dumps(marks))
    cut = shown(json.loads(content)["cutout"])
    np.testing.assert_array_equal(cut[..., 3], expected * np.uint8(255))
    np.testing.assert_array_equal(cut[..., :3], np.asarray(picture))


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ("no marks", "these are no marks"),
        ("[" * 5000, "these are no marks"),
        ('{"point": 3}', "these are no marks"),
        ('[{"point": [1], "positive": true}]', "these are no marks"),
        ('[{"box": [1, 2, 3, "x"]}]', "these are no marks"),
        ("[]", "no positive mark"),
        (json.dumps([OFF]), "no positive mark"),
        ('[{"point": [900, 3], "positive": true}]', "outside"),
    ],
)
def test_marks_that_say_nothing_are_refused(server, address, marks, words):
    status, content, _ = ask(server, "POST", address, marks)
    assert status == 422
    assert words in said(content)


def test_marks_are_taken_from_this_page_only_and_not_too_many(server, address):
    marks = json.dumps([POINT])
    other = {"Origin": "http://elsewhere.example"}
    assert ask(server, "POST", address, marks, **other)[0] == 403
    assert ask(server, "POST", address + "x", marks)[0] == 404
    assert ask(server, "POST", address, " " * 100_001)[0] == 413
    assert ask(server, "GET", address.replace("objects", "pages"))[0] == 404


def test_the_page_of_the_chains_leads_to_the_object(server, picture):
    _, content, _ = ask(server, "POST", "/pictures", png(picture))
    place = json.loads(content)["page"].replace("pages", "objects")
    status, page, headers = ask(server, "GET", place)
    assert status == 200
    assert b"On the object" in page
    assert headers["Cache-Control"] == "no-store"


def test_a_large_picture_is_shown_smaller_and_cut_at_its_own_size(tiny):
    large = Image.new("RGB", (2100, 40))
    cutting = Cutting("a <large>", large, tiny)
    assert "a &lt;large&gt;" in cutting.html
    assert '"width":2100' in cutting.html
    assert len(cutting.html) < 100_000


def test_numbers_of_marks_are_numbers():
    assert marks_in(b'[{"point": [1, 2.5], "positive": false}]') == [
        {"point": (1.0, 2.5), "positive": False}
    ]


# In a browser


def click(page, x, y, **options):
    """At a pixel of the picture, 80 x 56."""
    box = page.locator("#canvas").bounding_box()
    place = {"x": (x + 0.5) * box["width"] / 80, "y": (y + 0.5) * box["height"] / 56}
    page.locator("#canvas").click(position=place, **options)


def share(page):
    return page.locator("#share").inner_text()


def test_marks_are_made_undone_and_saved(  # noqa: PLR0917
    server, address, open_page, settle, tmp_path, picture
):
    seen = open_page(server.url + address.removeprefix("/"))
    page = seen.page
    assert (share(page), page.locator("#count").inner_text()) == ("\u2013", "none")
    assert page.locator("#save-mask").is_disabled()
    click(page, 60, 30)
    settle(page)
    first = share(page)
    assert first.endswith(" %")
    click(page, 5, 5, modifiers=["Shift"])
    settle(page)
    assert page.locator("#count").inner_text() == "2"
    page.locator("#undo").click()
    settle(page)
    assert (share(page), page.locator("#count").inner_text()) == (first, "1")
    saved = {}
    for name in ("mask", "cutout", "json"):
        with page.expect_download() as coming:
            page.locator(f"#save-{name}").click()
        saved[name] = tmp_path / coming.value.suggested_filename
        coming.value.save_as(saved[name])
    told = json.loads(saved["json"].read_text("utf-8"))
    assert told["marks"][0]["pixels"] == [[60, 30]]
    with Image.open(saved["mask"]) as mask, Image.open(saved["cutout"]) as cut:
        assert mask.size == cut.size == picture.size
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(cut)[..., 3])
    assert saved["mask"].name == "my picture-mask.png"
    page.locator("#clear").click()
    settle(page)
    assert share(page) == "\u2013"
    assert seen.said == []


def test_a_box_is_dragged_and_keys_mark(server, address, open_page, settle):
    seen = open_page(server.url + address.removeprefix("/"))
    page = seen.page
    page.get_by_text("Box", exact=True).click()
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] - 4)
    page.mouse.up()
    settle(page)
    assert page.locator("#count").inner_text() == "1"
    boxed = share(page)
    assert boxed.endswith(" %")
    page.locator("#canvas").focus()
    for key in ("-", "ArrowLeft", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    settle(page)
    assert page.locator("#count").inner_text() == "2"
    page.keyboard.press("Control+z")
    settle(page)
    assert share(page) == boxed
    assert seen.said == []


def test_the_start_page_leads_to_the_object(server, picture, open_page, settle):
    seen = open_page(server.url, ready=False)
    page = seen.page
    page.get_by_text("Cut out an object").click()
    page.locator("#file").set_input_files(
        {"name": "halves.png", "mimeType": "image/png", "buffer": png(picture)}
    )
    page.wait_for_url("**/objects/*")
    settle(page)
    assert page.locator("h1").inner_text() == "halves.png"
    assert page.locator("#cut").is_hidden()
    own = (server.url, "blob:", "data:")
    assert all(url.startswith(own) for url in seen.requests)
