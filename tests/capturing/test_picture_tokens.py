"""Which token of a prompt is which part of a picture: pixels change, and that token.

The layers of the vision tower are kept from mixing patches: then the embedding of a
picture token depends on its own pixels only.
"""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from tests.capturing import families, zoo
from tokenizers import Tokenizer, models, pre_tokenizers

from attnchain.capturing import TokenGrid, capture, picture_in_tiles
from attnchain.errors import GridError
from attnchain.testing.models import importable_torchvision

CELL = 4


def processor(name, **options):
    """A processor of pictures of transformers, without changes of colour."""
    importable_torchvision()
    import transformers

    nearest = {"resample": 0, "do_normalize": False, "do_convert_rgb": False}
    return getattr(transformers, name)(**nearest | options)


@contextmanager
def unmixed(model):
    """Keeps each token of the vision tower by itself."""

    def nothing(_module, _args, out):
        if isinstance(out, tuple):
            return torch.zeros_like(out[0]), *out[1:]
        return torch.zeros_like(out)

    hooks = [
        module.register_forward_hook(nothing)
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Attention")
        and ".language_model." not in name
        and ".text_model." not in name
    ]
    assert hooks
    yield
    for hook in hooks:
        hook.remove()


def embeddings(model, given):
    """What the language model is given."""
    part = getattr(model.model, "language_model", None)
    part = model.model.text_model if part is None else part
    seen = []
    hook = part.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**given)
    hook.remove()
    return seen[0]


def prompt_grid(model, given, **options):
    """The grid of the prompt in the last layer of the language model."""
    with capture(model, **options) as attention, torch.no_grad():
        model(**given)
    record = attention[-1]
    assert record.grid == record.key_grid
    assert record.shape[-1] == given["input_ids"].shape[1] == record.grid.n_tokens
    return record.grid


def check_each_cell(model, inputs, picture, grid, number=0):
    """Changes cell by cell of a picture, and looks which tokens change."""
    height, width = picture.shape[-2:]
    views = [view for view in grid.views if view.picture == number]
    with unmixed(model):
        before = embeddings(model, inputs(picture))
        for top in range(0, height, CELL):
            for left in range(0, width, CELL):
                other = picture.copy()
                cell = other[..., top : top + CELL, left : left + CELL]
                cell[...] = 255 - cell
                change = (embeddings(model, inputs(other)) - before).abs().sum(-1)
                assert set(change[0].nonzero().flatten().tolist()) == {
                    view.positions[
                        view.patch_at(left + 2, top + 2, width=width, height=height)
                    ]
                    for view in views
                }


def painted(height, width, seed=0):
    """A picture of random colours, far from the middle so that its negative differs."""
    colours = np.random.default_rng(seed).integers(0, 100, (3, height, width))
    return colours.astype(np.uint8)


def pixels(picture):
    """Pixel values without a processor."""
    return torch.from_numpy(picture)[None].float() / 255


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (families.llava, "LLaVA"),
        (families.paligemma, "PaliGemma"),
        (families.gemma3_seeing, "Gemma 3"),
        (families.internvl, "InternVL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_picture_that_is_given_whole(build, name):
    tiny = build()
    grid = prompt_grid(tiny.model, tiny.kwargs)
    assert all(view.rows == view.columns for view in grid.views), name
    for number in range(len(grid.views)):

        def inputs(picture, number=number):
            values = tiny.kwargs["pixel_values"].clone()
            values[number] = pixels(picture)
            return tiny.kwargs | {"pixel_values": values}

        check_each_cell(tiny.model, inputs, painted(16, 16), grid, number)


def test_llava_with_a_class_token():
    """All tokens of CLIP: the first of a picture is no patch."""
    model = families.llava_model(vision_feature_select_strategy="full")
    ids = families.prompt([zoo.PICTURE] * 17)

    def inputs(picture):
        return {"input_ids": ids, "pixel_values": pixels(picture)}

    picture = painted(16, 16)
    grid = prompt_grid(model, inputs(picture))
    assert grid.patches == slice(5, 21)
    check_each_cell(model, inputs, picture, grid)


def qwen_inputs(pictures, processor):
    """A prompt with pictures, as Qwen's processor of pictures cuts them."""
    given = processor(list(pictures), return_tensors="pt")
    n_tokens = (given["image_grid_thw"].prod(-1) // 4).tolist()
    runs = [[families.START, *[zoo.PICTURE] * n, families.END] for n in n_tokens]
    ids = families.prompt(*runs)
    marks = {"input_ids": ids, "mm_token_type_ids": (ids == zoo.PICTURE).long()}
    return marks | dict(given)


@pytest.mark.parametrize("number", ["2", "2_5", "3"])
def test_qwen_with_two_pictures(number):
    model = families.qwen_model(number)
    cutter = processor(
        "Qwen2VLImageProcessor",
        patch_size=4,
        merge_size=2,
        size={"shortest_edge": 64, "longest_edge": 4096},
    )
    small = painted(16, 16, seed=1)

    def inputs(picture):
        return qwen_inputs([small, picture], cutter)

    picture = painted(16, 40)
    grid = prompt_grid(model, inputs(picture))
    assert [(view.rows, view.columns) for view in grid.views] == [(2, 2), (2, 5)]
    check_each_cell(model, inputs, picture, grid, number=1)


def qwen_with_video(number):
    """A video of two frames, then a picture; Qwen 3 has words between the frames."""
    model = families.qwen_model(number)
    video = [[58] * 6, [58] * 6] if number == "3" else [[58] * 12]
    ids = families.prompt(*video, [zoo.PICTURE] * 4)
    return model, {
        "input_ids": ids,
        "mm_token_type_ids": (ids == zoo.PICTURE).long() + 2 * (ids == 58).long(),
        "pixel_values": zoo.numbers(16, 96),
        "pixel_values_videos": zoo.numbers(48, 96),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "video_grid_thw": torch.tensor([[2, 4, 6]]),
    }


@pytest.mark.parametrize("number", ["2", "2_5", "3"])
def test_qwen_numbers_the_rows_and_columns_alike(number):
    """The model's own positions of a picture and a video, in time, rows and columns."""
    model, given = qwen_with_video(number)
    grid = prompt_grid(model, given)
    assert [view.frames for view in grid.views] == [2, 1]
    told = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw")
    places, _ = model.model.get_rope_index(**{name: given[name] for name in told})
    for view in grid.views:
        own = places[:, 0, list(view.positions)].view(3, view.frames, -1)
        own = own - own[1:].amin((0, 2))[:, None]
        rows, columns = torch.arange(view.rows), torch.arange(view.columns)
        assert torch.equal(own[1, 0], rows.repeat_interleave(view.columns))
        assert torch.equal(own[2, 0], columns.repeat(view.rows))
        assert torch.equal(own[1:, 0], own[1:, -1])


@pytest.mark.parametrize("number", ["2", "2_5", "3"])
def test_the_tower_of_qwen(number):
    """Before the first layer, a changed cell changes the query of its own token."""
    model = families.qwen_model(number).model.visual
    cutter = processor(
        "Qwen2VLImageProcessor",
        patch_size=4,
        merge_size=2,
        size={"shortest_edge": 64, "longest_edge": 4096},
    )
    layer = "*1.attn" if number == "2_5" else "*0.attn"

    def queries(picture):
        given = cutter([picture], return_tensors="pt")
        with capture(model, name=layer) as attention, torch.no_grad():
            model(given["pixel_values"], grid_thw=given["image_grid_thw"])
        return attention[0]

    picture = painted(24, 40)
    before = queries(picture)
    for top in range(0, 24, CELL):
        for left in range(0, 40, CELL):
            other = picture.copy()
            other[:, top : top + CELL, left : left + CELL] += 100
            with unmixed(model):
                change = (queries(other).q - queries(picture).q).abs().sum((0, 1, 3))
            patch = before.grid.patch_at(left, top, width=40, height=24)
            assert change.nonzero().flatten().tolist() == [before.grid.positions[patch]]


def test_windows_of_qwen_are_said_to_be_unknown():
    tiny = families.qwen("2_5")
    with capture(tiny.model, name="*visual*0.attn") as attention:
        tiny.run()
    with pytest.raises(GridError, match=r"windows.*by hand"):
        _ = attention[0].grid


@pytest.mark.parametrize(("height", "width"), [(16, 32), (32, 16), (32, 32)])
def test_llava_next(height, width):
    """A thumbnail, then tiles whose padding is cut off, with a token after each row."""
    model = families.llava_model("LlavaNext", image_grid_pinpoints=[[32, 32]])
    cutter = processor(
        "LlavaNextImageProcessor",
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        image_grid_pinpoints=[[32, 32]],
    )
    rows, columns = height // 4, width // 4
    ids = families.prompt([zoo.PICTURE] * (16 + rows * (columns + 1)))

    def inputs(picture):
        return {"input_ids": ids} | dict(cutter([picture], return_tensors="pt"))

    picture = painted(height, width)
    grid = prompt_grid(model, inputs(picture))
    assert [(v.rows, v.columns) for v in grid.views] == [(rows, columns), (4, 4)]
    check_each_cell(model, inputs, picture, grid)


WORDS = {"a": 3, "dog": 4, "?": 5, "\n": families.BREAK, "\n\n": 54}
SPECIAL = {
    "<image>": zoo.PICTURE,
    "<fake>": families.FAKE,
    "<global-img>": families.WHOLE,
    **{
        f"<row_{r + 1}_col_{c + 1}>": 30 + r * 6 + c for r in range(3) for c in range(6)
    },
}


def tagged_prompt(tiles, breaks):
    """A prompt as the processor of SmolVLM writes it, through a tokenizer."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    one, none = (
        get_image_prompt_string(*sizes, 4, "<fake>", "<image>", "<global-img>")
        for sizes in (tiles, (0, 0))
    )
    tokenizer = Tokenizer(models.WordLevel(WORDS | SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n\n", "isolated")
            if breaks == "together"
            else pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(" ", "removed"),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    text = f"a dog {none} a {one} dog ?"
    return torch.tensor([tokenizer.encode(text).ids])


@pytest.mark.parametrize("family", ["Idefics3", "SmolVLM"])
@pytest.mark.parametrize("tiles", [(2, 3), (3, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("breaks", ["together", "apart"])
def test_tiles_with_tags(family, tiles, breaks):
    """Tiles row by row, each with its tag, then the whole, after a picture not cut."""
    model = families.tagged_model(family)
    cutter = processor(
        f"{family}ImageProcessor",
        size={"longest_edge": 48},
        max_image_size={"longest_edge": 16},
    )
    height, width = 16 * tiles[0], 16 * tiles[1]
    ids = tagged_prompt(tiles, breaks)
    first = pixels(painted(16, 16, seed=3))

    def inputs(picture):
        cut = cutter([picture], return_tensors="pt")["pixel_values"]
        assert cut.shape[1] == tiles[0] * tiles[1] + 1
        return {"input_ids": ids, "pixel_values": torch.cat((first[None], cut), 1)}

    picture = painted(height, width)
    grid = prompt_grid(model, inputs(picture))
    assert [(v.picture, v.rows, v.columns) for v in grid.views] == [
        (0, 2, 2),
        (1, 2 * tiles[0], 2 * tiles[1]),
        (1, 2, 2),
    ]
    check_each_cell(model, inputs, picture, grid, number=1)


def test_tiles_whose_rows_are_broken_are_said_to_be_unknown():
    tiny = families.tagged()
    ids = tiny.kwargs["input_ids"].clone()
    ids = torch.cat((ids[:, :10], tiny.kwargs["input_ids"][:, :1], ids[:, 10:]), 1)
    with pytest.raises(GridError, match=r"rows of equal length.*by hand"):
        prompt_grid(tiny.model, tiny.kwargs | {"input_ids": ids})


def test_internvl_is_not_told_how_tiles_are_arranged():
    model = families.internvl_model()
    cutter = processor(
        "GotOcr2ImageProcessor",
        size={"height": 16, "width": 16},
        crop_to_patches=True,
        max_patches=6,
    )
    ids = families.prompt([families.START, *[zoo.PICTURE] * 28, families.END])

    def inputs(picture):
        cut = cutter([picture], return_tensors="pt")["pixel_values"]
        return {"input_ids": ids, "pixel_values": cut}

    picture = painted(32, 48)
    with pytest.raises(GridError, match=r"7 tiles of 2 x 2.*picture_in_tiles.*by hand"):
        prompt_grid(model, inputs(picture))
    own = (ids[0] == zoo.PICTURE).nonzero().flatten().tolist()
    by_hand = picture_in_tiles(own, ids.shape[1], tiles=(2, 3), rows=2, columns=2)
    grid = prompt_grid(
        model, inputs(picture), grid=lambda _, n: by_hand if n == ids.shape[1] else None
    )
    check_each_cell(model, inputs, picture, grid)


def test_a_prompt_without_a_picture_is_text():
    tiny = families.llava()
    assert prompt_grid(
        tiny.model, {"input_ids": zoo.tokens(1, 6)}
    ) == TokenGrid.of_text(6)


GENERATING = {
    "LLaVA": families.llava,
    "PaliGemma": families.paligemma,
    "Gemma 3": families.gemma3_seeing,
    "Idefics 3": families.tagged,
    "InternVL": families.internvl,
    "Qwen2-VL": partial(families.qwen, "2"),
    "Qwen2.5-VL": partial(families.qwen, "2_5"),
    "Qwen3-VL": partial(families.qwen, "3"),
}


@pytest.mark.parametrize("family", GENERATING)
def test_a_prompt_that_is_continued_has_the_grid_of_its_own_pass(family):
    """`generate` encodes pictures before, and gives the model no pixels, no sizes."""
    tiny = GENERATING[family]()
    plain = prompt_grid(tiny.model, tiny.kwargs)
    with capture(tiny.model) as attention:
        tiny.model.generate(
            **tiny.kwargs, max_new_tokens=2, min_new_tokens=2, do_sample=False
        )
    own = [record for record in attention if record.shape[-2] == plain.n_tokens]
    assert {record.grid for record in own} == {plain}
    later = attention[-1]
    assert later.grid == TokenGrid.of_text(1)
    with pytest.raises(GridError, match=r"keys of earlier passes.*by hand"):
        _ = later.key_grid


@pytest.mark.parametrize("number", ["2", "2_5", "3"])
def test_pictures_and_videos_of_qwen_in_generation(number):
    model, given = qwen_with_video(number)
    plain = prompt_grid(model, given)
    with capture(model, name="*language_model*") as attention:
        model.generate(**given, max_new_tokens=1, do_sample=False)
    assert attention[-1].grid == plain


def test_sizes_that_generation_hides_are_said_to_be_unknown():
    tiny = families.llava_next()
    with capture(tiny.model, name="*language_model*") as attention:
        tiny.model.generate(**tiny.kwargs, max_new_tokens=1, do_sample=False)
    with pytest.raises(GridError, match=r"image_sizes.*by hand"):
        _ = attention[0].grid


def test_prompts_with_pictures_at_the_same_places_have_one_grid():
    tiny = families.llava()
    given = {
        "input_ids": tiny.kwargs["input_ids"].repeat(2, 1),
        "pixel_values": zoo.numbers(4, 3, 16, 16),
    }
    assert prompt_grid(tiny.model, given) == prompt_grid(tiny.model, tiny.kwargs)


def test_prompts_with_pictures_at_different_places_are_said_to_be_unknown():
    tiny = families.llava()
    ids = tiny.kwargs["input_ids"]
    given = {
        "input_ids": torch.cat((ids, ids.roll(1, 1))),
        "pixel_values": zoo.numbers(4, 3, 16, 16),
    }
    with pytest.raises(GridError, match=r"one prompt at a time.*by hand"):
        prompt_grid(tiny.model, given)


def test_pictures_inside_embeddings_are_said_to_be_unknown():
    tiny = families.llava()
    embedded = embeddings(tiny.model, tiny.kwargs)
    with capture(tiny.model, name="*language_model*") as attention, torch.no_grad():
        tiny.model(inputs_embeds=embedded)
    with pytest.raises(GridError, match=r"input_ids.*by hand"):
        _ = attention[0].grid


class Seeing(torch.nn.Module):
    """A model of one's own: a picture's patches, then words."""

    def __init__(self, text):
        super().__init__()
        self.embed = torch.nn.Linear(48, 32)
        self.text = text

    def forward(self, input_ids, images):
        cells = torch.nn.functional.unfold(images, 4, stride=4).mT
        words = self.text.get_input_embeddings()(input_ids)
        embedded = torch.cat((self.embed(cells), words), 1)[:, : input_ids.shape[1]]
        return self.text(inputs_embeds=embedded)


def test_a_model_without_a_rule_is_not_taken_for_text():
    """Though the sequence is as long as the words."""
    model = Seeing(families.mistral().model)
    with capture(model) as attention, torch.no_grad():
        model(zoo.tokens(1, 20), zoo.numbers(1, 3, 16, 16))
    with pytest.raises(GridError, match=r"no layout is known.*by hand"):
        _ = attention[0].grid
