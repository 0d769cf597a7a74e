"""Words on tiny random pipelines: positions, dense twins, competition, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.vision.promises import assert_keeps_promises

from attnchain.capturing import TextTokens, TokenGrid, capture
from attnchain.errors import (
    ArgumentError,
    GridError,
    SiteNotFoundError,
    UnsupportedModelError,
    WordNotFoundError,
)
from attnchain.operators import as_transition
from attnchain.testing.models import pipelines
from attnchain.text import TextAttention, segment_words, text_attention
from attnchain.text.diffusion import read_diffusion

PROMPT = "a red cat"
SIZES = {"height": 8, "width": 16}
RUN = {
    "prompt": PROMPT,
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "output_type": "latent",
    **SIZES,
}
JOINT = {"flux": 16, "stable_diffusion_3": 16}
CROSS = {"stable_diffusion": None, "stable_diffusion_xl": None, "pixart": 16}


def captured(name, pipeline=None, **choice):
    pipeline = pipeline or getattr(pipelines, name)()
    options = dict(RUN, generator=torch.Generator().manual_seed(0))
    length = (JOINT | CROSS)[name]
    if length:
        options["max_sequence_length"] = length
    if name == "pixart":
        options |= {"clean_caption": False, "use_resolution_binning": False}
    with capture(pipeline, **choice) as attention:
        pipeline(**options)
    return pipeline, attention


def lambda2(matrix):
    return np.sort(abs(np.linalg.eigvals(matrix)))[-2]


def mixed(records, weights="uniform"):
    """Mean of all heads of the first picture, in float64."""
    heads = torch.cat([r.probabilities()[0].double() for r in records]).numpy()
    heads = heads / heads.sum(-1, keepdims=True)
    count = [lambda2(head) for head in heads] if weights == "lambda2" else None
    return np.average(heads, 0, weights=count)


def bounced(matrix, start, bounces, *, direction, damping=0.99):
    n = len(matrix)
    damped = damping * matrix + (1 - damping) / n
    if direction == "outgoing":
        damped = (damped / damped.sum(0)).T
    return start @ np.linalg.matrix_power(damped, bounces)


def conditional(attention, kind):
    records = [r for r in attention if r.site.kind == kind]
    return [r for r in records if r.site.branch != "unconditional"]


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
@pytest.mark.parametrize("bounces", [1, 2, 3])
@pytest.mark.parametrize("name", JOINT)
def test_joint_walks_equal_dense_ones(name, bounces, direction):
    pipeline, attention = captured(name)
    read = text_attention(
        attention, pipeline=pipeline, prompt=PROMPT, weights="uniform"
    )
    matrix = mixed(conditional(attention, "joint"))
    pieces = ["cat", "c", "at"] if name == "stable_diffusion_3" else ["c", "at"]
    positions = read.tokens.find("cat", grid=read.grid)
    assert [
        read.tokens.pieces[p - read.grid.text.start].strip() for p in positions
    ] == pieces
    start = np.zeros(len(matrix))
    start[list(positions)] = 1 / len(positions)
    expected = bounced(matrix, start, bounces, direction=direction)[read.grid.patches]
    walk = read.walk("cat", bounces, direction=direction)
    assert walk.shape == (8 * 16 // 4,)
    np.testing.assert_allclose(walk.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
@pytest.mark.parametrize("bounces", [1, 2, 3])
@pytest.mark.parametrize("name", CROSS)
def test_walks_through_cross_attention_equal_dense_ones(name, bounces, direction):
    pipeline, attention = captured(name)
    read = text_attention(
        attention, pipeline=pipeline, prompt=PROMPT, weights="uniform"
    )
    largest = {(read.grid.rows, read.grid.columns)}
    assert largest == {max((r.grid.rows, r.grid.columns) for r in attention)}
    there = [r for r in attention if r.grid.n_patches == read.grid.n_patches]
    matrix = mixed(conditional(there, "self"))
    columns = mixed(conditional(there, "cross"))
    columns = columns[:, list(read.tokens.find("red"))]
    start = (columns / columns.sum(0)).mean(1)
    assert len(read.tokens.find("red")) > 1
    expected = bounced(matrix, start, bounces - 1, direction=direction)
    walk = read.walk("red", bounces, direction=direction)
    np.testing.assert_allclose(walk.numpy(), expected, atol=2e-6)


def test_heads_are_weighted_by_lambda2():
    pipeline, attention = captured("stable_diffusion_3", steps=-1)
    read = text_attention(attention, pipeline=pipeline, prompt=PROMPT)
    matrix = mixed(conditional(attention, "joint"), "lambda2")
    assert abs(matrix - mixed(conditional(attention, "joint"))).max() > 1e-4
    np.testing.assert_allclose(read.chain.to_dense().numpy(), matrix, atol=1e-4)


def test_the_mean_over_heads_can_be_captured_instead():
    pipeline, attention = captured("stable_diffusion_3", keep="mean")
    pipeline, heads = captured("stable_diffusion_3", pipeline)
    options = {"pipeline": pipeline, "prompt": PROMPT, "weights": "uniform"}
    means, every = (text_attention(a, **options) for a in (attention, heads))
    torch.testing.assert_close(means.walk("cat"), every.walk("cat"))


def test_a_resolution_can_be_chosen():
    pipeline, attention = captured("stable_diffusion")
    options = {"pipeline": pipeline, "prompt": PROMPT, "weights": "uniform"}
    coarse = text_attention(attention, resolution=(4, 8), **options)
    assert (coarse.grid.rows, coarse.grid.columns) == (4, 8)
    with pytest.raises(SiteNotFoundError, match="no captured attention fits"):
        text_attention(attention, resolution=(5, 5), **options)


def made_up(columns):
    """Walks given by hand: three tokens, a picture of 2 x 2 patches."""
    tokens = TextTokens("cat dog sky", ((0, 3), (4, 7), (8, 11)))
    chain = as_transition(torch.eye(4))
    return TextAttention(chain, TokenGrid(2, 2), tokens, torch.tensor(columns))


CLEAR = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.05, 0.05, 0.45, 0.45]]


def test_words_and_background_divide_the_picture():
    found = segment_words(made_up(CLEAR), ["cat", "dog"], background=["sky"], bounces=1)
    assert found.names == ("cat", "dog", "sky")
    assert found.labels.tolist() == [[0, 1], [2, 2]]
    assert found.mask("sky").tolist() == [[False, False], [True, True]]
    torch.testing.assert_close(found.walks.flatten(1), torch.tensor(CLEAR))
    shares = torch.tensor(CLEAR) / torch.tensor(CLEAR).sum(0)
    torch.testing.assert_close(found.maps.flatten(1), shares)


@pytest.mark.parametrize("words", [["cat", "dog"], ["dog"]], ids=str)
@pytest.mark.parametrize("picture", [None, Image.new("RGB", (10, 6))], ids=str)
def test_a_segmentation_keeps_its_promises(words, picture, tmp_path):
    attention = replace(made_up(CLEAR), picture=picture)
    found = segment_words(attention, words, bounces=1)
    assert_keeps_promises(found, tmp_path)
    assert found.labels.shape == ((2, 2) if picture is None else (6, 10))


def test_a_word_alone_has_what_exceeds_its_mean():
    found = segment_words(made_up(CLEAR), ["dog"], bounces=1)
    assert found.names == ("dog", "rest")
    assert found.mask("dog").tolist() == [[False, True], [False, False]]
    assert found.walks.shape == (1, 2, 2)


def test_label_maps_have_the_size_asked_for():
    found = segment_words(made_up(CLEAR), ["cat", "dog"], bounces=1, size=(10, 6))
    assert found.labels.shape == (6, 10)
    torch.testing.assert_close(found.maps.sum(0), torch.ones(6, 10))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "at least one word"),
        (["cat", "cat"], "only once"),
        ("cat", "list of words"),
    ],
)
def test_lists_of_words(words, message):
    with pytest.raises(ArgumentError, match=message):
        segment_words(made_up(CLEAR), words)


def test_a_background_given_as_a_string():
    with pytest.raises(ArgumentError, match="background must be a list"):
        segment_words(made_up(CLEAR), ["cat"], background="sky")


def test_a_name_that_did_not_compete():
    found = segment_words(made_up(CLEAR), ["cat", "dog"], bounces=1)
    with pytest.raises(ArgumentError, match="no segment 'sky'"):
        found.mask("sky")


def test_a_word_that_is_not_in_the_prompt():
    with pytest.raises(WordNotFoundError, match="not in the text"):
        segment_words(made_up(CLEAR), ["horse"])


def test_a_word_whose_tokens_are_masked():
    with pytest.raises(WordNotFoundError, match="no patch attends to 'cat'"):
        segment_words(made_up([[0.0] * 4, *CLEAR[1:]]), ["cat"])


@pytest.mark.parametrize("bounces", [0, 1.5])
def test_walks_have_at_least_one_bounce(bounces):
    with pytest.raises(ArgumentError, match="bounces"):
        made_up(CLEAR).walk("cat", bounces)


def test_a_model_without_text():
    pipeline = pipelines.dit()
    with capture(pipeline) as attention:
        pipeline([3], num_inference_steps=1, output_type="np")
    with pytest.raises(SiteNotFoundError, match="no attention to text"):
        text_attention(attention, pipeline=pipeline, prompt=PROMPT)


def test_cross_attention_alone_is_not_enough():
    pipeline, attention = captured("stable_diffusion", kind="cross")
    with pytest.raises(SiteNotFoundError, match="kind='self'"):
        text_attention(attention, pipeline=pipeline, prompt=PROMPT)


def test_no_common_resolution():
    pipeline, attention = captured("stable_diffusion")
    fine = {
        id(r) for r in attention if r.grid.n_patches == 128 and r.site.kind == "self"
    }
    attention._recording.records[:] = [
        r
        for r in attention
        if (r.site.kind == "self" and id(r) in fine)
        or (r.site.kind == "cross" and r.grid.n_patches < 128)
    ]
    with pytest.raises(SiteNotFoundError, match="common resolution"):
        text_attention(attention, pipeline=pipeline, prompt=PROMPT)


def test_two_sizes_cannot_be_mixed():
    pipeline = pipelines.stable_diffusion_3()
    with capture(pipeline) as attention:
        for height in (8, 16):
            size = {"height": height, "width": 8, "max_sequence_length": 16}
            pipeline(**dict(RUN, **size))
    with pytest.raises(GridError, match="2 token layouts"):
        text_attention(attention, pipeline=pipeline, prompt=PROMPT)


PICTURE = Image.effect_noise((40, 20), 60).convert("RGB")
SHOWN = {"size": 16, "weights": "uniform"}
READABLE = ["flux", "stable_diffusion_3", "stable_diffusion", "stable_diffusion_xl"]


@pytest.mark.parametrize("name", READABLE)
def test_a_picture_is_read_in_one_pass(name):
    pipeline = getattr(pipelines, name)()
    steps = pipeline.scheduler.timesteps.clone()
    read = read_diffusion(pipeline, PICTURE, PROMPT, **SHOWN)
    assert read.grid.rows * 2 == read.grid.columns
    assert torch.equal(pipeline.scheduler.timesteps, steps)
    found = segment_words(read, ["cat"], background=["red"], size=PICTURE.size)
    assert found.labels.shape == (20, 40)
    again = read_diffusion(pipeline, PICTURE, PROMPT, **SHOWN)
    assert torch.equal(read.chain.to_dense(), again.chain.to_dense())


@pytest.mark.parametrize("name", ["stable_diffusion_3", "stable_diffusion"])
def test_noise_has_the_level_asked_for(name, monkeypatch):
    """What the denoiser is shown is the encoded picture and that much noise."""
    pipeline = getattr(pipelines, name)()
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    seen = []

    def look(_, args, kwargs):
        latents = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        seen.append((latents.clone(), float(torch.as_tensor(time).flatten()[0])))

    with denoiser.register_forward_pre_hook(look, with_kwargs=True):
        for noise in (0.1, 0.9):
            read_diffusion(pipeline, PICTURE, PROMPT, noise=noise, **SHOWN)
    (low, low_time), (high, high_time) = seen
    assert (low_time, high_time) == (100, 900)
    scheduler = pipeline.scheduler
    if name == "stable_diffusion":
        kept, added = (
            [float(f(scheduler.alphas_cumprod[t])) ** 0.5 for t in (100, 900)]
            for f in (lambda a: a, lambda a: 1 - a)
        )
    else:
        kept, added = [0.9, 0.1], [0.1, 0.9]
    system = torch.tensor([[kept[0], added[0]], [kept[1], added[1]]])
    mixed = torch.linalg.solve(system, torch.stack([low, high]).flatten(1))
    noise = mixed[1]
    assert abs(float(noise.mean())) < 0.25
    assert abs(float(noise.std()) - 1) < 0.25


@pytest.mark.parametrize("noise", [0.0, 1.5])
def test_noise_levels_lie_above_zero_and_up_to_one(noise):
    with pytest.raises(ArgumentError, match="noise must lie"):
        read_diffusion(pipelines.flux(), PICTURE, PROMPT, noise=noise)


def test_pipelines_that_cannot_be_shown_a_picture():
    with pytest.raises(UnsupportedModelError, match=r"DiTPipeline .*known are Flux"):
        read_diffusion(pipelines.dit(), PICTURE, PROMPT)
