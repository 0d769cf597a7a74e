"""The page of words in a real browser: its maps are those of Python at every slider."""

import pytest
import torch
from PIL import Image

from attnchain.errors import OutputError
from attnchain.models import LoadedPipeline
from attnchain.page import WordsPage, words_page
from attnchain.testing.models import pipelines
from attnchain.text import draw_words, read_words

READ = {"size": 16, "weights": "uniform"}


@pytest.fixture(scope="module")
def flux():
    return LoadedPipeline("tiny <flux>", "Random weights.", pipelines.flux())


@pytest.fixture(scope="module")
def reading(flux):
    picture = Image.effect_noise((40, 20), 60).convert("RGB")
    words = ["red cat", "bag"]
    return read_words(flux, picture, words, noise=(0.3, 0.7), **READ)


@pytest.fixture
def opened(reading, open_page, tmp_path):
    WordsPage(reading, "a </script> title").save(tmp_path, stem="x")
    return open_page((tmp_path / "x-words-page.html").as_uri(), numbers=True)


def shown(page):
    values = page.evaluate("() => Array.from(window.attnchain.values)")
    return torch.tensor(values, dtype=torch.float64)


def test_pointing_at_a_word_shows_its_map_at_every_slider(opened, reading):
    page = opened.page
    assert opened.said == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in opened.requests)
    assert page.locator("h1").text_content() == "a </script> title"
    assert page.locator("#prompt").text_content() == "red cat, bag"
    for word, direction, level, bounces in (
        (0, "outgoing", None, 2),
        (1, "incoming", 0, 1),
        (1, "outgoing", 1, 10),
    ):
        page.locator("#direction").select_option(direction)
        page.locator("#level").fill(str(0 if level is None else level + 1))
        page.locator("#bounces").fill(str(bounces))
        page.locator("#words button").nth(word).hover()
        expected = reading.walks(level, bounces, direction)[word].flatten().double()
        found = shown(page)
        assert float((found - expected).abs().max()) < 1e-5 * float(expected.max())
        name = "all 2 mixed" if level is None else reading.level_names[level]
        assert page.locator("#level-text").text_content() == name


def test_patches_are_divided_and_a_click_keeps_a_word(opened, reading):
    page = opened.page
    walks = reading.segmentation.walks.flatten(1)
    found = torch.tensor(page.evaluate("() => window.attnchain.labels"))
    clear = (walks[0] - walks[1]).abs() > 1e-5 * walks.max()  # maps agree so far
    assert bool(clear.any())
    assert torch.equal(found[clear], walks.argmax(0)[clear])
    assert page.evaluate("() => window.attnchain.values") is None
    button = page.locator("#words button").nth(1)
    button.click()
    page.locator("h1").hover()
    button.evaluate("button => button.blur()")
    assert button.get_attribute("aria-pressed") == "true"
    assert page.evaluate("() => window.attnchain.state.word") == 1
    page.locator("#canvas").hover()
    assert "red cat" in page.locator("#said").text_content()
    with page.expect_download() as waiting:
        page.locator("#save").click()
    assert waiting.value.suggested_filename == "words.png"


def test_a_word_alone_has_what_exceeds_the_mean(flux, open_page, tmp_path):
    found = draw_words(flux, "a red cat", ["cat"], n_steps=1, **READ)
    WordsPage(found, "alone").save(tmp_path, stem="x")
    page = open_page((tmp_path / "x-words-page.html").as_uri(), numbers=True).page
    walk = found.segmentation.walks[0].flatten()
    labels = torch.tensor(page.evaluate("() => window.attnchain.labels"))
    clear = (walk - walk.mean()).abs() > 1e-5 * walk.max()
    assert bool(clear.any())
    assert torch.equal(labels[clear], (walk <= walk.mean()).long()[clear])
    assert page.locator("#level-player").is_hidden()
    assert page.locator("#areas").text_content().count("rest") == 1


def test_a_page_that_would_be_too_large_names_the_remedy(reading, monkeypatch):
    monkeypatch.setattr(words_page, "MAX_BYTES", 1000)
    with pytest.raises(OutputError, match="fewer noise levels, steps or words"):
        _ = WordsPage(reading, "x").html


@pytest.mark.parametrize("width", [1100, 1400])
def test_what_is_chosen_is_not_cut_off(reading, open_page, tmp_path, width):
    WordsPage(reading, "title").save(tmp_path, stem="x")
    address = (tmp_path / "x-words-page.html").as_uri()
    view = {"width": width, "height": 900}
    page = open_page(address, numbers=True, viewport=view).page
    cut = page.evaluate("""() => {
        const select = document.querySelector('#direction');
        const shown = select.getBoundingClientRect().width;
        select.style = 'flex: none; max-width: none; width: max-content';
        return select.getBoundingClientRect().width - shown;
    }""")
    assert cut < 1
