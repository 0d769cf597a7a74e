"""From words of an answer to the picture, against the model's own eager attention.

The reference is dense, in float64: the matrices that eager `generate` returns, sinks
taken out, heads mixed by their eigenvalues, picture tokens made absorbing, powers.
"""

import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tests.capturing import families, zoo
from tokenizers import Tokenizer, models, pre_tokenizers

from attnchain.capturing import capture, joined_passes, picture_in_tiles
from attnchain.errors import (
    ArgumentError,
    CaptureError,
    GridError,
    SiteNotFoundError,
    WordNotFoundError,
)
from attnchain.language import read_answer
from attnchain.maps import shared_out

SPECIAL = [0, 1, 2, *range(50, 60)]
GREEDY = {
    "max_new_tokens": 4,
    "min_new_tokens": 4,
    "do_sample": False,
    "suppress_tokens": SPECIAL,
}
BUILDS = {
    "LLaVA, two pictures": families.llava,
    "PaliGemma": families.paligemma,
    "Qwen2.5-VL": partial(families.qwen, "2_5"),
    "Qwen3-VL": partial(families.qwen, "3"),
    "Idefics 3, tiles": families.tagged,
    "SmolVLM, tiles": lambda: zoo.TinyModel(
        families.tagged_model("SmolVLM"), kwargs=families.tagged().kwargs
    ),
    "InternVL, two pictures": families.internvl,
}


def tokenizer():
    """Token n is the word `wn`; those of pictures and the like are special."""
    from transformers import PreTrainedTokenizerFast

    words = {f"w{n}": n for n in range(60)}
    made = Tokenizer(models.WordLevel(words))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([f"w{n}" for n in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=made)


def generated(tiny, grid=None):
    """The capture of a run of `generate`, and the whole text."""
    with capture(tiny.model, grid=grid) as attention, torch.no_grad():
        ids = tiny.model.generate(**tiny.kwargs, **GREEDY)[0]
    return attention, ids


def eager(tiny):
    """Attention of prompt and answer, (layers, heads, n, n), float64."""
    told = {"output_attentions": True, "return_dict_in_generate": True}
    twin = zoo.eager_twin(tiny.model)
    with torch.no_grad():
        passes = twin.generate(**tiny.kwargs, **GREEDY, **told).attentions
    n = passes[-1][0].shape[-1]
    rows = [
        np.stack([np.pad(layer[0], [(0, 0), (0, 0), (0, n - layer.shape[-1])])
                  for layer in layers])
        for layers in passes
    ]  # fmt: skip
    return np.concatenate(rows, 2).astype(np.float64)


def sinks_of(matrices):
    """Tokens with more than .3 of the attention that may reach them, in some head."""
    n = matrices.shape[-1]
    causal = not np.triu(matrices, 1).any()
    lookers = np.arange(n, 0, -1) if causal else np.full(n, n)
    shares = matrices.sum(-2) / lookers
    if causal:
        shares[..., n // 2 + 1 :] = 0
    found = set(np.argwhere((shares > 0.3).any((0, 1)))[:, 0].tolist())
    return found | {0} if causal else found


def mixed(matrices, dropped):
    """The mixture on the kept tokens, on the places of all."""
    n = matrices.shape[-1]
    kept = np.array([i for i in range(n) if i not in dropped])
    heads = matrices.reshape(-1, n, n)[:, kept][:, :, kept]
    heads = heads / heads.sum(-1, keepdims=True)
    moduli = np.sort(np.abs(np.linalg.eigvals(heads)), -1)[:, -2]
    whole = np.zeros((n, n))
    whole[np.ix_(kept, kept)] = np.tensordot(moduli / moduli.sum(), heads, 1)
    return whole


def arrivals(matrix, start, places, bounces):
    """Where walkers are whose picture tokens step to themselves."""
    absorbing = matrix.copy()
    absorbing[places] = np.eye(len(matrix))[places]
    v = np.isin(np.arange(len(matrix)), start) / len(start)
    return v @ np.linalg.matrix_power(absorbing, bounces)


def on_pixels(shares, views):
    """All views on a picture of 48 x 48 pixels, each patch evenly over its own."""
    picture = np.zeros((48, 48))
    for view in views:
        down, across = 48 // view.rows, 48 // view.columns
        patches = shares[list(view.positions)].reshape(view.rows, view.columns)
        picture += np.kron(patches, np.ones((down, across))) / (down * across)
    return picture


@pytest.mark.parametrize("bounces", [1, 3])
@pytest.mark.parametrize("name", BUILDS)
def test_walkers_arrive_where_eager_attention_sends_them(name, bounces):
    tiny = BUILDS[name]()
    attention, ids = generated(tiny)
    reading = read_answer(attention, ids, tokenizer=tokenizer())
    n_prompt, n = tiny.kwargs["input_ids"].shape[1], len(ids) - 1
    assert reading.n_prompt == n_prompt
    matrices = eager(tiny)
    assert matrices.shape[-1] == n
    dropped = sinks_of(matrices)
    assert set(reading.dropped) == dropped
    answer = ids[n_prompt:n].tolist()
    word = next(w for i, w in enumerate(answer) if n_prompt + i not in dropped)
    start = [n_prompt + i for i, w in enumerate(answer) if w == word]
    start = [place for place in start if place not in dropped]
    seen = [p for view in reading.grid.views for p in view.positions]
    expected = arrivals(mixed(matrices, dropped), start, seen, bounces)
    for number in {view.picture for view in reading.grid.views}:
        found = reading.where(f"w{word}", bounces, picture=number, part="answer")
        views = [view for view in reading.grid.views if view.picture == number]
        assert found.start == tuple(start)
        assert found.views == tuple((v.rows, v.columns) for v in views)
        own = [p for view in views for p in view.positions]
        assert found.reached[-1] == pytest.approx(expected[own].sum(), abs=1e-5)
        rows, columns = found.map.shape
        pixels = np.kron(found.map, np.ones((48 // rows, 48 // columns)))
        pixels /= (48 // rows) * (48 // columns)
        np.testing.assert_allclose(pixels, on_pixels(expected, views), atol=1e-6)


def test_the_grid_of_llava_next_is_known_in_one_pass():
    """`generate` does not give the model the sizes of pictures."""
    tiny = families.llava_next()
    with pytest.raises(GridError, match="image_sizes"):
        read_answer(*generated(tiny), tokenizer=tokenizer())
    ids = torch.cat((tiny.kwargs["input_ids"], torch.tensor([[9, 10, 9]])), 1)
    given = tiny.kwargs | {"input_ids": ids}
    with capture(tiny.model) as attention, torch.no_grad():
        tiny.model(**given)
    with torch.no_grad():
        matrices = zoo.eager_twin(tiny.model)(**given, output_attentions=True)
    matrices = torch.cat(matrices.attentions)[:, None].double().numpy()
    reading = read_answer(attention, ids[0], tokenizer=tokenizer(), sink="keep")
    found = reading.where("w10 w9", 2)
    n = ids.shape[1]
    places = [p for view in reading.grid.views for p in view.positions]
    expected = arrivals(mixed(matrices, set()), [n - 2, n - 1], places, 2)
    assert found.views == ((4, 8), (4, 4))
    pixels = np.kron(found.map, np.ones((12, 6))) / 72
    np.testing.assert_allclose(
        pixels, on_pixels(expected, reading.grid.views), atol=1e-6
    )


def test_tiles_of_internvl_are_placed_by_hand():
    ids = families.prompt([families.START, *[zoo.PICTURE] * 28, families.END])
    given = {"input_ids": ids, "pixel_values": zoo.numbers(7, 3, 16, 16)}
    tiny = zoo.TinyModel(families.internvl_model(), kwargs=given)
    own = (ids[0] == zoo.PICTURE).nonzero().flatten().tolist()
    n = ids.shape[1]
    tiles = picture_in_tiles(own, n, tiles=(2, 3), rows=2, columns=2)
    attention, ids = generated(tiny, grid=lambda _, m: tiles if m == n else None)
    reading = read_answer(attention, ids, tokenizer=tokenizer(), sink="keep")
    word = int(ids[n])
    found = reading.where(f"w{word}", 2, part="answer")
    start = [i for i in range(n, len(ids) - 1) if ids[i] == word]
    expected = arrivals(mixed(eager(tiny), set()), start, own, 2)
    assert found.views == ((4, 6), (2, 2))
    whole = np.zeros((4, 6))
    for tile in range(6):
        for patch in range(4):
            row, column = 2 * (tile // 3) + patch // 2, 2 * (tile % 3) + patch % 2
            whole[row, column] += expected[own[4 * tile + patch]]
    small = expected[own[24:]].reshape(2, 2)
    whole += np.kron(small, np.ones((2, 3))) / 6
    np.testing.assert_allclose(found.map, whole, atol=1e-6)


def test_one_pass_over_the_whole_text_is_read_alike():
    tiny = families.llava()
    attention, ids = generated(tiny)
    with capture(tiny.model) as whole, torch.no_grad():
        tiny.model(**tiny.kwargs | {"input_ids": ids[None, :-1]})
    word = f"w{int(ids[-2])}"
    n_prompt = tiny.kwargs["input_ids"].shape[1]
    one, other = (
        read_answer(run, ids, tokenizer=tokenizer(), n_prompt=n_prompt)
        for run in (attention, whole)
    )
    assert one.treatment == other.treatment
    assert "left out as sinks: 'w" in one.treatment
    for part in ("answer", "all"):
        first, second = (run.where(word, 2, part=part) for run in (one, other))
        torch.testing.assert_close(first.map, second.map, atol=1e-6, rtol=0)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Phi3"])
def test_passes_of_a_continued_text_are_one_chain(name, cache):
    model = zoo.decoder(name)
    prompt = zoo.tokens(1, 6)
    with capture(model) as attention, torch.no_grad():
        ids = model.generate(prompt, **GREEDY, cache_implementation=cache)
    with capture(model) as whole, torch.no_grad():
        model(input_ids=ids[:, :-1], use_cache=False)
    joined = joined_passes(attention.matching())
    for found, expected in zip(joined, whole, strict=True):
        assert found.grid.n_tokens == 9
        torch.testing.assert_close(
            found.transition().to_dense(), expected.transition().to_dense()
        )


def test_passes_that_are_no_one_text_are_refused():
    model = zoo.decoder("Llama")
    with capture(model) as beams, torch.no_grad():
        model.generate(zoo.tokens(1, 6), **GREEDY, num_beams=4)
    with capture(model) as again, torch.no_grad():
        model(zoo.tokens(1, 6))
        model(zoo.tokens(1, 6, seed=5))
    with capture(model, keep="dense") as dense, torch.no_grad():
        model(zoo.tokens(1, 6))
    for run in (beams, again):
        with pytest.raises(CaptureError, match=r"beam search.*one pass"):
            joined_passes(run.matching())
    with pytest.raises(CaptureError, match="keep='qk'"):
        joined_passes(dense.matching())


def test_what_cannot_be_asked_is_said():
    tiny = families.llava()
    attention, ids = generated(tiny)
    reading = read_answer(attention, ids, tokenizer=tokenizer(), sink="keep")
    assert reading.treatment.endswith("all tokens kept")
    n_prompt = reading.n_prompt
    last, first = int(ids[-1]), int(ids[1])
    absent = next(n for n in range(3, 50) if n not in ids.tolist())
    only_prompt = next(n for n in ids[:4].tolist() if n not in ids[n_prompt:].tolist())
    with pytest.raises(WordNotFoundError, match=f"w{absent}"):
        reading.where(f"w{absent}")
    with pytest.raises(WordNotFoundError, match="is not in the answer: ' w"):
        reading.where(f"w{only_prompt}", part="answer")
    with pytest.raises(WordNotFoundError, match="occurrence 7"):
        reading.where(f"w{last}", part="answer", occurrence=7)
    with pytest.raises(ArgumentError, match="before the picture"):
        reading.where(f"w{first}", occurrence=0)
    with pytest.raises(ArgumentError, match=r"no picture 5.*\[0, 1\]"):
        reading.where(f"w{last}", picture=5)
    with pytest.raises(ArgumentError, match="part must be"):
        reading.where(f"w{last}", part="question")
    with pytest.raises(ArgumentError, match="bounces"):
        reading.where(f"w{last}", 0)


def test_the_end_of_an_answer_was_never_read():
    tiny = families.llava()
    attention, ids = generated(tiny)
    ids = ids.clone()
    ids[-1] = next(n for n in range(3, 50) if n not in ids.tolist())
    reading = read_answer(attention, ids, tokenizer=tokenizer())
    with pytest.raises(WordNotFoundError, match="never read"):
        reading.where(f"w{int(ids[-1])}")


def test_a_sink_is_no_start():
    tiny = families.llava()
    attention, ids = generated(tiny)
    ids = ids.clone()
    ids[0] = next(n for n in range(3, 50) if n not in ids.tolist())
    with pytest.raises(WordNotFoundError, match="sink='keep'"):
        read_answer(attention, ids, tokenizer=tokenizer()).where(f"w{int(ids[0])}")


def test_runs_that_hold_no_answer_about_a_picture():
    words, tiny = tokenizer(), families.llava()
    attention, ids = generated(tiny)
    with pytest.raises(ArgumentError, match="whole text, prompt included"):
        read_answer(attention, ids[5:], tokenizer=words)
    with pytest.raises(ArgumentError, match="one text"):
        read_answer(attention, ids[None], tokenizer=words)
    with capture(tiny.model, name="*vision_tower*") as tower, torch.no_grad():
        tiny.run()
    with pytest.raises(SiteNotFoundError, match="only vision towers"):
        read_answer(tower, ids, tokenizer=words)
    text = zoo.tokens(1, 8)
    with capture(tiny.model) as blind, torch.no_grad():
        tiny.model(input_ids=text)
    with pytest.raises(GridError, match="no picture"):
        read_answer(blind, text[0], tokenizer=words)
    with capture(tiny.model) as several, torch.no_grad():
        tiny.model(input_ids=text.repeat(2, 1))
    with pytest.raises(ArgumentError, match="one at a time"):
        read_answer(several, text[0], tokenizer=words)
    with capture(tiny.model) as one, torch.no_grad():
        tiny.run()
    reading = read_answer(one, tiny.kwargs["input_ids"][0], tokenizer=words)
    with pytest.raises(ArgumentError, match="n_prompt"):
        reading.where("w3", part="answer")


def test_a_video_is_refused():
    from tests.capturing.test_picture_tokens import qwen_with_video

    model, given = qwen_with_video("2_5")
    with capture(model, name="*language_model*") as attention, torch.no_grad():
        model(**given)
    ids = given["input_ids"][0]
    reading = read_answer(attention, ids, tokenizer=tokenizer(), sink="keep")
    with pytest.raises(GridError, match="video"):
        reading.where(f"w{int(ids[-1])}", picture=0)


def test_the_map_is_saved_over_the_picture(tmp_path):
    tiny = families.qwen("2_5")
    attention, ids = generated(tiny)
    picture = Image.new("RGB", (60, 40), "olive")
    reading = read_answer(attention, ids, tokenizer=tokenizer(), pictures=[picture])
    found = reading.where(f"w{int(ids[-2])}", 3, part="answer")
    files = found.save(tmp_path, stem="a")
    assert {file.name for file in files} == {"a-word.json", "a-word.png"}
    facts = json.loads((tmp_path / "a-word.json").read_text())
    assert np.shape(facts["map"]) == (2, 3)
    assert facts["reached"] == sorted(facts["reached"])
    assert np.sum(facts["map"]) == pytest.approx(facts["reached"][-1])
    assert facts["treatment"].startswith("attention causal; left out as sinks: ")
    assert found.summary().splitlines()[0].startswith(f"'w{int(ids[-2])}' at ")
    assert found.enlarged(60, 40).shape == (40, 60)
    axes = found.plot()
    grey, colours = sorted(axes.images, key=lambda image: image.zorder)
    assert grey.get_array().shape == (40, 60)
    assert tuple(grey.get_extent()) == tuple(colours.get_extent())
    left, right, low, high = colours.get_extent()
    shown = axes.get_aspect() * abs(high - low) / abs(right - left)
    assert shown == pytest.approx(40 / 60)


@pytest.mark.parametrize("size", [(2, 3), (5, 4), (1, 7), (6, 6)])
def test_what_is_shared_out_lies_where_it_was(size):
    """Both grids cut into pixels of their common multiple."""
    shares = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).double()
    found = shared_out(shares, rows=size[0], columns=size[1])
    down, across = np.lcm(3, size[0]), np.lcm(4, size[1])
    fine = np.kron(shares, np.ones((down // 3, across // 4)))
    fine /= (down // 3) * (across // 4)
    blocks = fine.reshape(size[0], down // size[0], size[1], across // size[1])
    np.testing.assert_allclose(found, blocks.sum((1, 3)), atol=1e-12)
