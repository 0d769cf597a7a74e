"""Words at several noise levels and steps: the levels are those read one by one."""

import numpy as np
import pytest
import torch
from PIL import Image

from attnchain.capturing import capture, check_known
from attnchain.errors import ArgumentError, UnsupportedModelError, WordNotFoundError
from attnchain.models import LoadedPipeline, load
from attnchain.testing.models import pipelines
from attnchain.text import (
    draw_words,
    read_diffusion,
    read_generation,
    read_words,
    segment_words,
    text_attention,
)

PROMPT = "a red cat"
PICTURE = Image.effect_noise((40, 20), 60).convert("RGB")
READ = {"size": 16, "weights": "uniform"}


def loaded(name):
    return LoadedPipeline(f"tiny {name}", "Random weights.", getattr(pipelines, name)())


@pytest.fixture(scope="module")
def flux():
    return loaded("flux")


def test_levels_are_read_one_by_one_and_mixed_alike(flux):
    noise = (0.3, 0.7)
    found = read_words(
        flux, PICTURE, ["red", "cat"], prompt=PROMPT, noise=noise, **READ
    )
    alone = [
        read_diffusion(flux.pipeline, PICTURE, PROMPT, noise=level, **READ)
        for level in noise
    ]
    mean = sum(level.chain.to_dense().double() for level in alone) / 2
    mixed = found.segmentation.attention.chain.to_dense()
    torch.testing.assert_close(mixed, mean.float(), atol=1e-6, rtol=1e-5)
    assert (alone[0].chain.to_dense() - alone[1].chain.to_dense()).abs().max() > 1e-4
    assert found.level_names == ("noise 0.3", "noise 0.7")
    for number, level in enumerate(alone):
        for bounces, direction in ((1, "incoming"), (3, "outgoing")):
            walk = {"bounces": bounces, "direction": direction}
            expected = segment_words(level, ["red", "cat"], **walk).walks
            torch.testing.assert_close(found.walks(number, **walk), expected)
    assert found.segmentation.labels.shape == (20, 40)


def test_one_level_is_the_segmentation_of_one_pass(flux):
    found = read_words(
        flux, PICTURE, ["red cat"], background=["a"], prompt=PROMPT, **READ
    )
    once = read_diffusion(flux.pipeline, PICTURE, PROMPT, **READ)
    expected = segment_words(once, ["red cat"], background=["a"])
    assert torch.equal(found.segmentation.labels, expected.labels)
    assert found.words == ("red cat", "a")


@pytest.mark.parametrize("name", ["stable_diffusion_3", "stable_diffusion"])
def test_each_step_of_a_drawing_is_read(name):
    model = loaded(name)
    drawn = read_generation(model.pipeline, PROMPT, n_steps=2, **READ)
    options = {"prompt": PROMPT, "num_inference_steps": 2, "height": 16, "width": 16}
    if name == "stable_diffusion_3":
        options["max_sequence_length"] = 256
    with capture(model.pipeline) as captured:
        seen = model.pipeline(**options, generator=torch.Generator().manual_seed(0))
    picture = seen.images[0]
    assert np.array_equal(drawn[0].picture, picture)
    read = {"pipeline": model.pipeline, "prompt": PROMPT, "weights": "uniform"}
    for step, level in enumerate(drawn):
        expected = text_attention(captured, **read, steps=step)
        torch.testing.assert_close(level.walk("cat"), expected.walk("cat"))
    assert not torch.equal(drawn[0].walk("cat"), drawn[1].walk("cat"))
    every = text_attention(captured, **read)
    mean = (drawn[0].chain.to_dense() + drawn[1].chain.to_dense()) / 2
    torch.testing.assert_close(every.chain.to_dense(), mean)
    found = draw_words(model, PROMPT, ["cat", "red"], n_steps=2, **READ)
    assert found.level_names == ("step 1 of 2", "step 2 of 2")
    expected = segment_words(every, ["cat", "red"], size=picture.size).walks
    torch.testing.assert_close(found.segmentation.walks, expected)


def test_files_are_what_was_found(flux, tmp_path):
    found = draw_words(flux, "a red cat", ["cat", "red"], n_steps=1, **READ)
    files = {path.name for path in found.save(tmp_path, stem="x")}
    names = ("segments.png", "figure.png", "picture.png", "map-1.png", "map-2.png")
    assert files == {"x-words.json", *(f"x-words-{name}" for name in names)}
    labels = Image.open(tmp_path / "x-words-segments.png")
    assert np.array_equal(labels, found.segmentation.labels)
    colours = np.array(labels.getpalette()).reshape(-1, 3)
    for entry in found.facts()["legend"]:
        shown = "#" + "".join(f"{part:02x}" for part in colours[entry["label"]])
        assert shown == entry["colour"]
    for number, walk in enumerate(found.segmentation.walks, 1):
        grey = np.array(Image.open(tmp_path / f"x-words-map-{number}.png"))
        assert grey.shape == tuple(found.segmentation.labels.shape)
        row, column = divmod(int(grey.argmax()), grey.shape[1])
        place = row * len(walk) // len(grey), column * walk.shape[1] // grey.shape[1]
        assert float(walk[place] / walk.max()) > 0.9


def test_the_prompt_is_made_of_the_words(flux):
    found = read_words(flux, PICTURE, ["red cat"], background=["bag"], **READ)
    assert found.prompt == "red cat, bag"


@pytest.mark.parametrize(
    ("words", "options", "error", "message"),
    [
        ([], {}, ArgumentError, "at least one word"),
        (["cat", "CAT "], {}, ArgumentError, "only once"),
        ("cat", {}, ArgumentError, "list of words"),
        (["cat"], {"prompt": " "}, ArgumentError, "prompt is empty"),
        (["dog"], {"prompt": PROMPT}, WordNotFoundError, "'dog' is not in the text"),
        (["cat"], {"noise": ()}, ArgumentError, "one level or more"),
        (["cat"], {"noise": (0.0,)}, ArgumentError, "noise must lie"),
        (["cat"], {"bounces": 0}, ArgumentError, "bounces"),
        ([f"w{i}" for i in range(65)], {}, ArgumentError, "at most 64"),
    ],
)
def test_what_is_asked_wrongly(flux, words, options, error, message):
    with pytest.raises(error, match=message):
        read_words(flux, PICTURE, words, **{**READ, **options})


@pytest.mark.parametrize("word", ["red hat", "red shirt, Hat"])
def test_words_outside_a_small_vocabulary(word):
    """They are refused rather than read as the token for unknown words."""
    model = load("garments-mmdit")
    message = r"no token for '[hH]at' .* <unk>; it knows a, and, bag, .*, yellow$"
    for ask in (
        lambda: read_words(model, PICTURE, [word]),
        lambda: read_words(model, PICTURE, ["red"], background=[word]),
        lambda: draw_words(model, word, [word]),
    ):
        with pytest.raises(WordNotFoundError, match=message):
            ask()
    read_words(model, PICTURE, ["RED shirt, blue bag"])


def test_a_word_is_known_where_one_of_two_tokenizers_spells_it():
    """T5 lacks the digit in FLUX; in Stable Diffusion 3, CLIP may have it."""
    digit = {"prompt": "a 7", **READ}
    with_t5, with_both = loaded("flux"), loaded("stable_diffusion_3")
    with_t5.pipeline.tokenizer_2.unk_token = "<unk>"  # noqa: S105
    with_both.pipeline.tokenizer_3.unk_token = "<unk>"  # noqa: S105
    with pytest.raises(WordNotFoundError, match=r"'7' .* it in other words"):
        read_words(with_t5, PICTURE, ["7"], **digit)
    check_known(with_both.pipeline, ["a 7"])


def test_words_that_the_text_encoder_never_saw(flux):
    long = "a " * 300 + "red cat"
    with pytest.raises(WordNotFoundError, match="beyond the 256 token positions"):
        read_words(flux, PICTURE, ["cat"], prompt=long, **READ)


def test_a_phrase_that_is_cut_within_is_not_half_of_it():
    from attnchain.capturing import TextTokens

    tokens = TextTokens("a red cat", ((0, 1), (2, 5)))
    assert tokens.find("red") == (1,)
    with pytest.raises(WordNotFoundError, match="'red cat' lies beyond the 2"):
        tokens.find("red cat")
    again = TextTokens("red cat, red cat", ((0, 3), (4, 7), (9, 12)))
    assert again.find("red cat") == (0, 1)


@pytest.mark.parametrize("name", ["dit", "ddpm"])
def test_models_without_text(name):
    model = loaded(name)
    with pytest.raises(UnsupportedModelError, match="cannot be shown a picture"):
        read_words(model, PICTURE, ["cat"])
    with pytest.raises(UnsupportedModelError, match="draws without a text"):
        draw_words(model, PROMPT, ["cat"])
    with pytest.raises(UnsupportedModelError, match="reads a prompt and draws it"):
        read_words(model.pipeline, PICTURE, ["cat"])


def test_steps_are_whole_numbers(flux):
    with pytest.raises(ArgumentError, match="n_steps"):
        read_generation(flux.pipeline, PROMPT, n_steps=0)
