"""The words benchmark: its pictures, its parts, its scores, one small run of each."""

import argparse
import gzip
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

FOLDER = Path(__file__).parents[2] / "benchmarks" / "words"
MODULES = ("garments", "judge", "model", "train", "reading", "rules", "scoring")
MODULES += ("claims", "samples", "making")


@pytest.fixture(scope="module")
def words():
    """The scripts as modules of one folder, forgotten again."""
    path, before = [*sys.path], set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield argparse.Namespace(**{name: import_module(name) for name in MODULES})
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(
            str(FOLDER.parent)
        ):
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Blobs in the files of Fashion-MNIST."""
    folder, draw = tmp_path_factory.mktemp("fashion"), np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = np.zeros((60, 28, 28), np.uint8)
        pixels[:, 4:24, 4:24] = draw.integers(120, 256, (60, 20, 20))
        labels = (np.arange(60) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            sizes = np.array(values.shape, dtype=">u4").tobytes()
            packed = bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(packed))
    return folder


@pytest.fixture(scope="module")
def wardrobe(words, data):
    return words.garments.Wardrobe(data, "train")


@pytest.fixture(scope="module")
def pipeline(words):
    """Random weights: what they are is of no interest here."""
    torch.manual_seed(0)
    made = words.model.assemble(torch.nn.ModuleDict(words.model.parts()))
    made.set_progress_bar_config(disable=True)
    made.default_sample_size = words.garments.SIDE
    return made


def read(words, wardrobe, pipeline, count=2):
    task = words.claims.TASKS[1]
    found = task.pictures(wardrobe, 0, count, unseen=True)
    prompts = [composition.prompt for composition in found]
    asked = [task.words(composition) for composition in found]
    return words.reading.read(pipeline, task.pixels(found), prompts, asked, 0.5), found


def test_a_picture_follows_from_its_seed_and_its_masks_are_disjoint(words, wardrobe):
    for seed in range(20):
        one = words.garments.compose(wardrobe, seed)
        again = words.garments.compose(wardrobe, seed)
        assert one.prompt == again.prompt
        np.testing.assert_array_equal(one.picture, again.picture)
        masks = np.stack([thing.mask for thing in one.things])
        assert masks.sum(0).max() == 1
        assert all(thing.mask.any() for thing in one.things)
        assert one.picture.min() >= 0
        assert one.picture.max() <= 1


def test_the_prompt_names_what_is_there_and_grey_copies_hide_the_colour(
    words, wardrobe
):
    g = words.garments
    for seed in range(20):
        one = g.compose(wardrobe, seed, count=3, distinct=True)
        listed = one.prompt.split(" on ")[0].split(", ")
        assert listed == [thing.words for thing in one.things]
        assert np.ptp(one.grey, axis=-1).max() == 0
        for thing in one.things:
            spread = np.ptp(one.picture[thing.mask], axis=-1).max()
            assert (spread < 0.01) == (g.COLOURS[thing.colour] == "grey")


def test_pairs_kept_back_are_never_shown_in_training(words, wardrobe):
    g = words.garments
    for unseen in (True, False):
        pairs = {
            (t.garment, t.colour)
            for seed in range(100)
            for t in g.compose(wardrobe, seed, unseen=unseen, named=False).things
        }
        assert pairs <= g.UNSEEN if unseen else not pairs & g.UNSEEN
    assert len(g.UNSEEN) == 16


def test_pixels_come_back_and_prompts_are_cut_where_the_model_ends(words):
    space, tokenizer = words.train.PixelAutoencoder(), words.model.TOKENIZER
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    latents = space.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(space.decode(latents).sample, pixels)
    grey = space.encode(pixels.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert grey.latent_dist.mode()[:, 1:].abs().max() < 1e-6
    options = {"padding": "max_length", "max_length": 512, "truncation": True}
    assert len(tokenizer("Red bag, blue boot", **options).input_ids) == 16
    assert tokenizer("red hat").input_ids[1] == tokenizer.unk_token_id


def test_tokens_are_packed_as_flux_packs_them(words, pipeline):
    latents = torch.randn(2, 3, 6, 4)
    ours = words.model.packed(latents)
    assert torch.equal(ours, pipeline._pack_latents(latents, 2, 3, 6, 4))
    theirs = pipeline._prepare_latent_image_ids(2, 3, 3, "cpu", torch.float32)
    assert torch.equal(words.model.places(3), theirs)


def test_a_partner_is_the_other_word_of_a_phrase(words):
    m = words.model
    numbers = m.token_numbers(["red bag, bag, blue boot"])
    partner, known = words.train.partners(numbers)
    told = m.TOKENIZER.convert_ids_to_tokens(partner[known].tolist())
    assert told == ["bag", "red", ",", "boot", "blue"]


def test_an_interrupted_training_gives_the_same_weights(words, data, tmp_path):
    t = words.train
    torch.save({}, tmp_path / "none")
    words.judge.save_file(words.judge.Judge().state_dict(), tmp_path / "judge")
    given = {"data": data, "judge": tmp_path / "judge", "rate": 3e-3, "seed": 0}
    args = argparse.Namespace(**given, steps=3, out=tmp_path / "once")
    args.out.mkdir()
    wardrobe, judge = t.Wardrobe(data, "train"), t.load_judge(args.judge)

    def batch(step):
        pixels, prompts = t.batch_of(wardrobe, 0, step)
        latents = t.packed(t.PixelAutoencoder().encode(pixels).latent_dist.mode())
        return latents[:2], t.seen_by(judge, pixels[:2]), prompts[:2]

    once = t.Training(args)
    for step in range(2):
        once.advance(*batch(step))
    once.save()
    twice = t.Training(args)
    twice.resume()
    assert twice.step == 2
    for training in (once, twice):
        training.advance(*batch(2))
    first, second = once.average.state_dict(), twice.average.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rules_give_what_the_library_gives_for_one_picture(words, wardrobe, pipeline):
    reading, found = read(words, wardrobe, pipeline)
    rows = [
        reading.attention(row, reading.blocks).walk(thing.words, 2, damping=0.85)
        for row, composition in enumerate(found)
        for thing in composition.things
    ]
    maps = words.rules.walk(reading, reading.blocks, bounces=2, damping=0.85)
    torch.testing.assert_close(maps.transpose(0, 1).flatten(0, 1), torch.stack(rows))


def test_a_picture_shown_to_the_pipeline_is_read_as_by_hand(words, wardrobe, pipeline):
    from PIL import Image

    from attnchain.text import read_diffusion

    composition = words.garments.compose(wardrobe, 1, count=2, distinct=True)
    pixels = (composition.picture * 255).round().astype(np.uint8)
    options = {"noise": 1e-4, "weights": "uniform"}
    image = Image.fromarray(pixels)
    shown = read_diffusion(pipeline, image, composition.prompt, **options)
    asked = [tuple(thing.words for thing in composition.things)]
    exact = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    hand = words.reading.read(pipeline, exact, [composition.prompt], asked, 1e-4)
    ours = hand.chain(hand.blocks).to_dense()[0]
    assert (shown.chain.to_dense() - ours).abs().max() < 1e-4


def test_every_rule_gives_a_map_of_every_word(words, wardrobe, pipeline):
    reading, _ = read(words, wardrobe, pipeline)
    for name, rule in (words.rules.CHEAP | words.rules.WHOLE).items():
        maps = rule(reading, reading.blocks)
        assert maps.shape == (3, 2, 256), name
        assert maps.isfinite().all(), name
        assert (maps >= 0).all(), name


@given(st.integers(0, 10**6), st.booleans())
def test_scores_are_those_of_scikit_learn(words, seed, ties):
    draw = np.random.default_rng(seed)
    scores, truth = draw.random(40), draw.random(40) < 0.4
    truth[:2] = True, False
    scores = scores.round(1) if ties else scores
    s = words.scoring
    found = s.average_precision(scores, truth)
    assert found == pytest.approx(average_precision_score(truth, scores))
    found = s.separation(scores[truth], scores[~truth])
    assert found == pytest.approx(roc_auc_score(truth, scores))


def test_a_map_that_is_the_mask_scores_best(words):
    masks = [np.zeros((6, 6), bool) for _ in range(2)]
    masks[0][:2, :2], masks[1][3:, 3:] = True, True
    scores = words.scoring.scores_of(np.stack(masks).astype(float), masks)
    assert set(scores.values()) == {1.0}


def test_claims_samples_and_making_run_small_and_are_taken_up_again(
    words, data, pipeline, tmp_path, monkeypatch
):
    pipeline.save_pretrained(tmp_path / "model")
    words.judge.save_file(words.judge.Judge().state_dict(), tmp_path / "judge")
    out = tmp_path / "out"
    shared = {"data": data, "model": tmp_path / "model", "out": out}
    shared |= {"runs": out / "runs", "judge": tmp_path / "judge"}
    monkeypatch.setattr(words.claims, "NOISES", (0.5, 0.9))
    monkeypatch.setattr(words.claims, "BLOCKS", (words.claims.ALL, (2,)))
    claims = argparse.Namespace(**shared, choose=2, report=2)
    words.claims.main(claims)
    table = (out / "claims.md").read_text()
    assert table.count("| column select |") == 3
    words.claims.main(claims)
    assert (out / "claims.md").read_text() == table
    monkeypatch.setattr(words.samples, "CHUNK", 4)
    monkeypatch.setattr(words.samples, "REAL", 40)
    monkeypatch.setattr(words.samples, "STEPS", 2)
    cells = ["none", "cfg3", "rank-s1"]
    words.samples.main(argparse.Namespace(**shared, cells=cells, seeds=[0, 1], count=4))
    assert "| cfg3 |" in (out / "samples.md").read_text()
    assert (out / "samples.png").stat().st_size > 0
    monkeypatch.setattr(words.making, "CHUNK", 4)
    monkeypatch.setattr(words.making, "STEPS", 2)
    monkeypatch.setattr(words.making, "_asked_masks", _first_masks)
    words.making.main(argparse.Namespace(**shared, made=4, pictures=4, noise=0.5))
    assert "4 pictures that show" in (out / "making.md").read_text()


def _first_masks(judge, image, composition):
    """A random network draws nothing that a judge would see."""
    return [thing.mask for thing in composition.things]
