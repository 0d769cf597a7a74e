"""A text's page in a real browser: what it shows, and how it is steered."""

import pytest
import torch
from tests.language.conftest import loaded

from attnchain.errors import OutputError
from attnchain.language import read_text
from attnchain.markov import mix, propagate
from attnchain.page import TextPage, text_page
from attnchain.ranking import token_rank

TEXT = "a cat & a <dog>;\nthe cat ran"
VALUES = "() => Array.from(window.attnchain.values)"


@pytest.fixture(params=["llama", "bert"])
def reading(request):
    return read_text(loaded(request.param), TEXT)


@pytest.fixture
def opened(reading, open_page, tmp_path):
    TextPage(reading, "a </script> title").save(tmp_path, stem="x")
    file = tmp_path / "x-text-page.html"
    return open_page(file.as_uri(), numbers=True)


def close(found, expected):
    off = torch.tensor(found, dtype=torch.float64) - expected.double()
    return float(off.abs().sum()) < 1e-3


def test_nothing_is_fetched_and_nothing_complained(opened):
    assert [
        url
        for url in opened.requests
        if not url.startswith(("file:", "blob:", "data:"))
    ] == []
    assert opened.said == []
    assert opened.page.locator("h1").text_content() == "a </script> title"


def test_the_text_is_written_token_by_token(opened, reading):
    page = opened.page
    boxes = page.locator("#text .token").all_text_contents()
    assert [box.strip() for box in boxes] == [name.strip() for name in reading.tokens]
    whole = page.locator("#text").text_content()
    for word in ("dog", "the", "ran", "<", "&"):
        assert word in whole
    assert page.locator("#text .out").count() == len(reading.dropped)


@pytest.mark.parametrize(
    ("shown", "direction"), [("goes", "incoming"), ("comes", "outgoing")]
)
def test_pointing_at_a_token_shows_its_bounces(
    opened, reading, settle, shown, direction
):
    page = opened.page
    chain = mix(reading.heads, lambda2=list(reading.lambda2))
    page.locator("#shown").select_option(shown)
    for state in (3, len(reading.tokens) - 1):
        page.locator(f'#text [data-state="{state}"]').hover()
        for bounces in (1, 4):
            page.locator("#bounces").fill(str(bounces))
            settle(page)
            expected = propagate(chain, state, bounces, direction=direction)
            assert close(page.evaluate(VALUES), expected)


def test_a_head_is_chosen_and_all_are_taken_again(opened, reading, settle):
    page = opened.page
    page.locator("#heat tbody tr").nth(1).locator("td button").nth(0).click()
    page.locator('#text [data-state="5"]').hover()
    settle(page)
    expected = propagate(reading.heads[1][0], 5, 1)
    assert close(page.evaluate(VALUES), expected)
    page.locator("#all").click()
    settle(page)
    expected = propagate(mix(reading.heads, lambda2=list(reading.lambda2)), 5, 1)
    assert close(page.evaluate(VALUES), expected)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_ranks_are_those_of_python(opened, reading, settle, direction):
    page = opened.page
    page.locator("#shown").select_option(direction)
    page.locator("#damping").fill("0.8")
    settle(page)
    chain = mix(reading.heads, lambda2=list(reading.lambda2))
    expected = token_rank(chain, damping=0.8, direction=direction).distribution
    assert close(page.evaluate(VALUES), expected)


def test_a_click_keeps_the_start_and_arrows_move_it(opened, settle):
    page = opened.page
    page.locator('#text [data-state="2"]').click()
    page.locator('#text [data-state="6"]').hover()
    settle(page)
    assert page.evaluate("() => window.attnchain.state.start") == 2
    page.locator("#text").press("ArrowRight")
    settle(page)
    assert page.evaluate("() => window.attnchain.state.start") == 3
    assert page.locator("#text .start").get_attribute("data-state") == "3"


def test_the_view_is_saved_as_vectors_and_pixels(opened, reading, settle, tmp_path):
    page = opened.page
    settle(page)
    with page.expect_download() as waiting:
        page.locator("#svg").click()
    waiting.value.save_as(tmp_path / "a.svg")
    from xml.etree import ElementTree as ET

    root = ET.parse(tmp_path / "a.svg").getroot()  # noqa: S314
    texts = [e.text for e in root if e.tag.endswith("text")]
    assert len(texts) == len(reading.names)
    assert "cat" in [text.strip() for text in texts]
    with page.expect_download() as waiting:
        page.locator("#png").click()
    waiting.value.save_as(tmp_path / "a.png")
    from PIL import Image

    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 100


def test_thousands_of_tokens_stay_answerable(open_page, tmp_path, settle):
    """The page answers its own clock while the chain of 2,000 tokens is mixed."""
    model = loaded("llama")
    model.model.config.max_position_embeddings = 4096
    reading = read_text(model, "abcdefghij" * 200, layers=[1])
    TextPage(reading, "long").save(tmp_path, stem="x")
    page = open_page((tmp_path / "x-text-page.html").as_uri(), numbers=True).page
    settle(page)
    assert page.locator("#text .token").count() == 1999
    page.evaluate(
        "() => { window.beats = 0; setInterval(() => { window.beats += 1; }, 10); }"
    )
    page.locator("#heat tbody tr").nth(0).locator("td button").nth(1).click()
    settle(page)
    page.wait_for_function("() => window.beats > 0")
    expected = propagate(reading.heads[0][1], 0, 1)
    assert close(page.evaluate(VALUES), expected)


def test_a_page_that_would_be_too_large_names_the_remedy(reading, monkeypatch):
    monkeypatch.setattr(text_page, "MAX_BYTES", 1000)
    with pytest.raises(OutputError, match="read fewer layers"):
        _ = TextPage(reading, "x").html
