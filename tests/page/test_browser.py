"""The page in a real browser: what it shows, and how it is steered."""

import re
from dataclasses import replace

import pytest
import torch

from attnchain.markov import mix, propagate, stationary
from attnchain.operators import ColumnNormalized, Damped
from attnchain.page.packing import store_heads

COLUMNS, ROWS = 10, 7
N = COLUMNS * ROWS
VALUES = "() => Array.from(window.attnchain.values())"


@pytest.fixture
def seen(open_page, page_file):
    return open_page(page_file.as_uri())


@pytest.fixture
def numbers(open_page, page_file):
    return open_page(page_file.as_uri(), numbers=True).page


def choose(page, name, value):
    page.locator(f'input[name="{name}"][value="{value}"]').check(force=True)


def one_head(page, settle, layer, head):
    choose(page, "chain", "head")
    page.locator("#layer").fill(str(layer))
    page.locator("#head").fill(str(head))
    settle(page)


def close(found, expected, tolerance=1e-3):
    """Whether two distributions differ by less than the tolerance in L1."""
    off = torch.tensor(found, dtype=torch.float64) - expected.double()
    return float(off.abs().sum()) < tolerance


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
@pytest.mark.parametrize("damping", [1.0, 0.99, 0.6])
def test_bounces_of_the_mixture_equal_python(numbers, data, settle, direction, damping):
    chain = Damped(mix(data.attention.heads[3:]), damping)
    choose(numbers, "direction", direction)
    numbers.locator("#damping").fill(str(damping))
    settle(numbers)
    start = 3 * COLUMNS + 5
    for bounce in (0, 1, 2, 7, 20):
        numbers.locator("#bounces").fill(str(bounce))
        found = numbers.evaluate(VALUES)
        assert close(found, propagate(chain, start, bounce, direction=direction))


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
@pytest.mark.parametrize("place", [(0, 0), (2, 1), (4, 2)])
def test_bounces_of_one_head_equal_python(numbers, data, settle, direction, place):
    layer, head = place
    one_head(numbers, settle, layer, head)
    choose(numbers, "direction", direction)
    numbers.locator("#damping").fill("1")
    settle(numbers)
    start = 3 * COLUMNS + 5
    exact = data.attention.heads[layer][head].to(torch.float64)
    stored = store_heads(data.attention.heads[layer])[head].chain().to(torch.float64)
    for bounce in (1, 2, 5, 20):
        numbers.locator("#bounces").fill(str(bounce))
        found = numbers.evaluate(VALUES)
        assert close(found, propagate(exact, start, bounce, direction=direction))
        page_chain = propagate(stored, start, bounce, direction=direction)
        assert close(found, page_chain, 1e-5)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
@pytest.mark.parametrize("place", [(1, 0), (3, 2)])
def test_token_rank_equals_python_and_keeps_its_bound(
    numbers, data, settle, direction, place
):
    layer, head = place
    one_head(numbers, settle, layer, head)
    choose(numbers, "direction", direction)
    choose(numbers, "view", "rank")
    settle(numbers)

    def rank(chain):
        damped = Damped(chain, 0.99)
        walk = ColumnNormalized(damped) if direction == "outgoing" else damped
        return stationary(walk, tolerance=1e-8).distribution

    found = torch.tensor(numbers.evaluate(VALUES), dtype=torch.float64)
    exact = rank(data.attention.heads[layer][head].to(torch.float64))
    assert float((found - exact).abs().sum()) < 1e-3
    stored = store_heads(data.attention.heads[layer])[head].chain().to(torch.float64)
    bound = numbers.evaluate("() => window.attnchain.rank.bound")
    assert bound <= 1e-5
    # The page's matrix is float32: n * eps of rounding beside the bound.
    assert float((found - rank(stored)).abs().sum()) <= bound + 1e-5
    assert "⁻⁶" in numbers.locator("#rank-facts").inner_text()


def test_no_bound_is_claimed_without_damping(seen, settle):
    choose(seen.page, "view", "rank")
    seen.page.locator("#damping").fill("1")
    settle(seen.page)
    assert "no bound" in seen.page.locator("#rank-facts").inner_text()


def test_readouts_show_the_numbers(seen, data):
    page = seen.page
    page.locator("#bounces").fill("2")
    chain = Damped(mix(data.attention.heads[3:]), 0.99)
    expected = propagate(chain, 3 * COLUMNS + 5, 2)
    shown = page.locator("#read-start").inner_text()
    assert "row 3, column 5" in shown
    value = float(expected[3 * COLUMNS + 5])
    assert float(shown.split("\n")[0]) == pytest.approx(value, abs=1e-3)
    times = float(re.search(r"([\d.]+)\s\S uniform", shown)[1])
    assert times == pytest.approx(N * value, abs=N * 1e-3)
    largest = page.locator("#read-largest b").inner_text()
    assert float(largest) == pytest.approx(float(expected.max()), abs=1e-3)


def test_the_heat_map_shows_every_lambda2(seen, data):
    cells = seen.page.locator("#heat .cell").all()
    labels = [cell.get_attribute("aria-label") for cell in cells]
    found = torch.tensor([float(label.split("= ")[1]) for label in labels])
    assert torch.allclose(found.view(5, 3), data.attention.lambda2, atol=1e-3)


def assert_table(page, sets):
    """The table on the page shows these sets."""
    rows = page.locator("#set-table tbody tr").all()
    cells = [row.locator("td").all_inner_texts() for row in rows]
    for cell, share, stays in zip(cells, sets.prevalence, sets.retention, strict=True):
        assert float(cell[0].split()[0]) == pytest.approx(100 * float(share), abs=0.06)
        assert float(cell[1].split()[0]) == pytest.approx(100 * float(stays), abs=0.06)
    patches = torch.bincount(sets.labels, minlength=len(rows)).tolist()
    assert [int(cell[2]) for cell in cells] == patches


def test_sets_show_prevalence_and_every_number_of_sets(seen, data):
    page = seen.page
    choose(page, "view", "sets")
    for index, sets in enumerate(data.sets):
        page.locator("#count").fill(str(index))
        assert_table(page, sets)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"])
    shown = page.locator("#read-pointer").inner_text()
    set_, member = re.search(r"Set (\d+)\s+membership ([\d.]+)", shown).groups()
    expected = data.sets[-1].memberships[3 * COLUMNS + 5, int(set_) - 1]
    assert float(member) == pytest.approx(float(expected), abs=1e-3)


def test_a_single_head_shows_its_own_sets(seen, data):
    page = seen.page
    choose(page, "view", "sets")
    choose(page, "chain", "head")
    for layer, head in ((4, 0), (0, 2), (2, 1)):
        page.locator("#heat .cell").nth(3 * layer + head).click()
        sets = data.head_sets[layer][head]
        assert_table(page, sets)
        count = f"{len(sets.prevalence)} (largest gap)"
        assert page.locator("#count-text").inner_text() == count
        assert page.locator("#count").is_disabled()
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"])
        shown = page.locator("#read-pointer").inner_text()
        set_, member = re.search(r"Set (\d+)\s+membership ([\d.]+)", shown).groups()
        expected = sets.memberships[3 * COLUMNS + 5]
        assert int(set_) - 1 == int(sets.labels[3 * COLUMNS + 5])
        assert float(member) == pytest.approx(float(expected.max()), abs=1e-3)
    choose(page, "chain", "mixture")
    assert_table(page, data.sets[int(page.locator("#count").input_value())])


def test_a_chain_without_sets_says_so(open_page, data, tmp_path):
    from attnchain.page import write_page

    gone = ((None,) * 3, *data.head_sets[1:])
    file = write_page(tmp_path / "page.html", replace(data, head_sets=gone))
    page = open_page(file.as_uri()).page
    choose(page, "view", "sets")
    choose(page, "chain", "head")
    page.locator("#heat .cell").nth(1).click()
    assert (
        "No sets were found for layer 0, head 1" in page.locator("#sets").inner_text()
    )
    assert not page.locator("#set-table").is_visible()
    page.locator("#canvas").click(position={"x": 5, "y": 5})
    assert "no sets" in page.locator("#read-pointer").inner_text()
    choose(page, "chain", "mixture")
    assert page.locator("#set-table").is_visible()
    page.locator("#heat .cell").nth(1).click()
    assert "none for this mixture" in page.locator("#sets").inner_text()
    page.locator("#reset").click()
    assert page.locator("#set-table").is_visible()


def test_a_click_moves_the_start_and_plays_the_bounces(seen, settle):
    page = seen.page
    page.locator("#bounces").fill("4")
    box = page.locator("#canvas").bounding_box()
    page.mouse.click(box["x"] + 0.01 * box["width"], box["y"] + 0.99 * box["height"])
    page.locator("#play", has_text="Stop").wait_for()
    assert int(page.locator("#bounces-text").inner_text()) < 4
    page.locator("#play", has_text="Play").wait_for()
    assert page.locator("#bounces-text").inner_text() == "4"
    assert f"row {ROWS - 1}, column 0" in page.locator("#read-start").inner_text()


def test_reduced_motion_shows_the_last_bounce_at_once(open_page, page_file, settle):
    page = open_page(page_file.as_uri(), reduced_motion="reduce").page
    page.locator("#bounces").fill("4")
    page.locator("#canvas").click(position={"x": 5, "y": 5})
    settle(page)
    assert "row 0, column 0" in page.locator("#read-start").inner_text()
    assert page.locator("#bounces-text").inner_text() == "4"
    assert page.locator("#play").inner_text() == "Play"


def test_dragging_moves_the_start_along(seen, settle):
    page = seen.page
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 3, steps=4)
    page.mouse.up()
    settle(page)
    assert f"row 0, column {COLUMNS - 1}" in page.locator("#read-start").inner_text()


def test_touch_chooses_a_patch(open_page, page_file, settle):
    page = open_page(
        page_file.as_uri(),
        has_touch=True,
        is_mobile=True,
        viewport={"width": 390, "height": 844},
        reduced_motion="reduce",
    ).page
    page.locator("#canvas").tap(position={"x": 4, "y": 4})
    settle(page)
    assert "row 0, column 0" in page.locator("#read-start").inner_text()


def test_the_picture_is_steered_by_keys(seen, settle):
    page = seen.page
    canvas = page.locator("#canvas")
    canvas.focus()
    for key in ("ArrowUp", "ArrowRight", "Shift+ArrowLeft", "ArrowDown", "ArrowDown"):
        canvas.press(key)
    settle(page)
    assert "row 4, column 2" in page.locator("#read-start").inner_text()
    assert "row 4, column 2: 0.0" in page.locator("#said").inner_text()
    canvas.press(".")
    assert page.locator("#bounces-text").inner_text() == "4"
    canvas.press(",")
    canvas.press(",")
    assert page.locator("#bounces-text").inner_text() == "2"
    canvas.press("d")
    assert page.locator('input[value="outgoing"]').is_checked()
    canvas.press("2")
    assert page.locator('input[value="rank"]').is_checked()
    canvas.press("3")
    assert page.locator("#set-table").is_visible()
    canvas.press("1")
    settle(page)
    canvas.press(" ")
    page.locator("#play", has_text="Stop").wait_for()
    canvas.press(" ")
    page.locator("#play", has_text="Play").wait_for()


def pressed(page):
    cells = page.locator("#heat .cell").all()
    states = [cell.get_attribute("aria-pressed") == "true" for cell in cells]
    return [(i // 3, i % 3) for i, state in enumerate(states) if state]


def test_heads_are_chosen_from_the_heat_map(numbers, data, settle):
    page = numbers
    assert pressed(page) == [(layer, head) for layer in (3, 4) for head in range(3)]
    page.locator("#heat .name").nth(3).click()
    page.locator("#heat .cell").nth(4 * 3 + 1).click()
    page.locator("#heat .cell").nth(0).click()
    settle(page)
    assert pressed(page) == [(0, 0), (4, 0), (4, 2)]
    assert (
        "mixture of 3 heads, in layers 0, 4" in page.locator("#chain-text").inner_text()
    )
    chosen = ([0], [0, 2])
    layers = [
        data.attention.heads[i][heads] for i, heads in zip((0, 4), chosen, strict=True)
    ]
    for weights in ("lambda2", "uniform"):
        page.locator("#weights").select_option(weights)
        settle(page)
        chain = Damped(mix(layers, weights), 0.99)
        expected = propagate(chain, 3 * COLUMNS + 5, 3)
        assert close(page.evaluate(VALUES), expected)
    page.locator("#reset").click()
    settle(page)
    assert len(pressed(page)) == 6


def test_the_last_head_of_a_mixture_stays(seen, settle):
    page = seen.page
    for layer in (3, 4):
        page.locator("#heat .name").nth(layer).click()
    settle(page)
    assert pressed(page) == [(4, 0), (4, 1), (4, 2)]


def test_the_heat_map_is_steered_by_keys(seen, settle):
    page = seen.page
    one_head(page, settle, 2, 0)
    page.locator('#heat .cell[tabindex="0"]').focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowUp", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    settle(page)
    assert pressed(page) == [(1, 1)]
    assert page.locator("#layer").input_value() == "1"
    assert page.locator("#head").input_value() == "1"
    assert "Layer 1, head 1" in page.locator("#chain-text").inner_text()


def test_the_picture_can_be_saved_from_every_view(seen, settle, tmp_path):
    from PIL import Image

    for view in ("bounces", "rank", "sets"):
        choose(seen.page, "view", view)
        settle(seen.page)
        with seen.page.expect_download() as download:
            seen.page.locator("#save").click()
        assert download.value.suggested_filename.endswith(f"-{view}.png")
        file = tmp_path / f"{view}.png"
        download.value.save_as(file)
        with Image.open(file) as saved:
            assert saved.format == "PNG"
            assert saved.width == 1200
            assert len(saved.convert("RGB").getcolors(1 << 24)) > 100


def test_nothing_is_asked_of_a_network_and_nothing_goes_wrong(seen, page_file, settle):
    page = seen.page
    page.context.set_offline(True)
    page.reload()
    settle(page)
    for view in ("rank", "sets", "bounces"):
        choose(page, "view", view)
        settle(page)
    outside = [url for url in seen.requests if not url.startswith(("data:", "blob:"))]
    assert set(outside) == {page_file.as_uri()}
    assert seen.said == []


def test_the_overlay_and_the_scale_change_the_picture(seen, settle):
    canvas = seen.page.locator("#canvas")
    looks = {canvas.screenshot()}
    seen.page.locator("#scale-kind").select_option("log")
    assert "logarithmic" in seen.page.locator("#scale-kind").inner_text()
    assert "log scale" in seen.page.locator("#unit").inner_text()
    looks.add(canvas.screenshot())
    seen.page.locator("#overlay").fill("0")
    looks.add(canvas.screenshot())
    assert len(looks) == 3


def test_dark_mode_follows_the_system(open_page, page_file):
    from io import BytesIO

    from PIL import Image

    def corner(scheme):
        page = open_page(page_file.as_uri(), color_scheme=scheme).page
        shot = Image.open(BytesIO(page.screenshot())).convert("L")
        return shot.getpixel((2, 2))

    assert corner("light") > 200
    assert corner("dark") < 60


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_of_a_narrow_window(open_page, page_file, width):
    page = open_page(
        page_file.as_uri(), numbers=True, viewport={"width": width, "height": 800}
    ).page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_every_control_has_a_name(seen):
    page = seen.page
    for view in ("bounces", "rank", "sets"):
        choose(page, "view", view)
        tree = page.locator("body").aria_snapshot()
        unnamed = re.findall(
            r"^\s*- (?:button|slider|radio|combobox|application)(?:\s*\[.*)?:?$",
            tree,
            re.MULTILINE,
        )
        assert unnamed == []


def test_the_page_says_what_it_shows(seen, data):
    text = seen.page.locator("body").inner_text()
    assert data.attention.model_note in text
    assert "special token (class) of the model is removed" in text
    assert "differs from the model's attention by at most" in text
    assert "Click or tap a patch" in text


def test_a_browser_without_workers_is_told(open_page, page_file):
    page = open_page(
        page_file.as_uri(), ready=False, script="delete window.Worker"
    ).page
    page.get_by_text("could not compute the chain").wait_for()
