"""Texts of different lengths in one batch: each is what it is alone."""

import pytest
import torch
from tests.capturing import zoo

from attnchain import token_rank
from attnchain.capturing import AttentionSite, DenseRecord, capture
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import mix, propagate, second_eigenvalue, spectrum, stationary
from attnchain.operators import Damped
from attnchain.testing.models import text

TEXT = {name: n for name, n in zoo.TEXT.items() if name != "num_key_value_heads"}
LENGTHS = (9, 6, 2)
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
NO_CACHE = {"use_cache": False}

FAMILIES = {
    "Roberta": (TEXT, "right"),
    "DistilBert": ({"vocab_size": 60, "dim": 32, "n_heads": 4, "n_layers": 2}, "right"),
    "T5Encoder": ({"vocab_size": 60, **T5}, "right"),
    "Qwen2": (zoo.TEXT | NO_CACHE, "left"),
    "Mistral": (zoo.TEXT | NO_CACHE | {"sliding_window": 3}, "right"),
    "Gemma": (zoo.TEXT | NO_CACHE | {"head_dim": 8}, "left"),
    "Bloom": (
        {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "right",
    ),
    "Gemma2": (zoo.TEXT | NO_CACHE | {"head_dim": 8, "sliding_window": 3}, "left"),
    "GPTNeo": (
        zoo.TEXT
        | NO_CACHE
        | {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}
        | {"num_heads": 4, "window_size": 3},
        "left",
    ),
    "DebertaV2": (TEXT, "right"),
    "Deberta": (TEXT, "right"),
}

IN_DOUBLE = [name for name in FAMILIES if name not in ("Gemma2", "GPTNeo")]
"""These compute in float32 also where all weights are float64."""


def build(family):
    options, side = FAMILIES[family]
    config = f"{family.removesuffix('Encoder')}Config"
    return zoo.transformers_model(f"{family}Model", config, **options), side


def batch(side):
    """Three texts, padded on one side, and their mask."""
    ids, mask = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9).bool()
    for row, length in enumerate(LENGTHS):
        place = slice(9 - length, None) if side == "left" else slice(length)
        ids[row, place] = zoo.tokens(length, seed=row)
        mask[row, place] = True
    return ids, mask


def captured(model, **given):
    with capture(model) as attention, torch.no_grad():
        model(**given)
    return attention


@pytest.mark.parametrize("family", FAMILIES)
def test_each_text_of_a_batch_is_what_it_is_alone(family):
    """Rotary positions count from the first real token, as generate counts them."""
    model, side = build(family)
    ids, mask = batch(side)
    given = {"input_ids": ids, "attention_mask": mask.long()}
    if side == "left":
        given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    padded = captured(model, **given)
    assert all(torch.equal(record.live, mask) for record in padded)
    for layer, record in enumerate(padded):
        for row, chain in enumerate(record.chains()):
            alone = captured(model, input_ids=ids[row : row + 1, mask[row]])
            [expected] = alone.matching(layers=layer)
            torch.testing.assert_close(
                chain.to_dense(), expected.probabilities()[0], atol=1e-5, rtol=0
            )


def padded_and_alone(family, layer=1):
    """Chains of the batch, and those of each text run without padding, in float64."""
    model, side = build(family)
    model = model.double()
    ids, mask = batch(side)
    given = {"input_ids": ids, "attention_mask": mask.long()}
    if side == "left":
        given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    alone = [
        captured(model, input_ids=ids[row : row + 1, mask[row]]).select(layers=layer)
        for row in range(len(mask))
    ]
    return captured(model, **given).select(layers=layer), alone, mask


QUESTIONS = {
    "incoming": lambda p: token_rank(p).distribution,
    "outgoing": lambda p: token_rank(p, direction="outgoing").distribution,
    "stationary": lambda p: stationary(Damped(p, 0.9)).distribution,
    "of the mixture": lambda p: token_rank(mix(p, "uniform")).distribution,
    "observable": lambda p: spectrum(Damped(p, 0.5), 1).basis[..., 0],
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS.keys())
@pytest.mark.parametrize("family", IN_DOUBLE)
def test_one_question_for_all_texts_is_answered_for_each(family, ask):
    padded, alone, mask = padded_and_alone(family)
    found = ask(padded)
    for row, own in enumerate(alone):
        torch.testing.assert_close(
            found[row][..., mask[row]], ask(own)[0], atol=1e-6, rtol=0
        )
        assert not found[row][..., ~mask[row]].any()


@pytest.mark.parametrize("family", IN_DOUBLE)
def test_eigenvalues_of_all_texts_are_those_of_each(family):
    padded, alone, _ = padded_and_alone(family)
    found = second_eigenvalue(padded, tolerance=1e-8).modulus
    expected = [second_eigenvalue(own, tolerance=1e-8).modulus for own in alone]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-6, rtol=0)
    assert [c.n_states for c in padded.chains()] == [n for n in LENGTHS for _ in "four"]


def test_one_text_of_a_batch_keeps_its_places():
    padded, alone, mask = padded_and_alone("Qwen2")
    assert padded.axes == ("input", "head")
    found = propagate(padded[1], 3, 2)
    expected = propagate(alone[1][0], 0, 2)
    torch.testing.assert_close(found[:, mask[1]], expected, atol=1e-5, rtol=0)
    with pytest.raises(ArgumentError, match="padding"):
        propagate(padded[1], 0, 2)
    assert token_rank(padded).absorbing == (0, 3, 7)


def test_texts_are_not_averaged():
    padded, alone, _ = padded_and_alone("Roberta")
    assert mix(padded).batch_shape == (3,)
    unpadded = captured(text.llama().model, input_ids=zoo.tokens(3, 5))
    layers = unpadded.select()
    assert mix(layers).batch_shape == (3,)
    torch.testing.assert_close(
        mix(layers, "uniform").to_dense()[1],
        mix([layer[1] for layer in layers], "uniform").to_dense(),
    )
    assert mix(alone[0]).batch_shape == (1,)
    assert mix(alone[0][0]).batch_shape == ()
    one_head = unpadded.select(heads=0)
    assert mix(one_head, "uniform").batch_shape == (3,)


@pytest.mark.parametrize("family", ["Bloom", "Mpt"])
def test_padding_to_the_left_is_seen_where_attention_is_by_hand(family):
    """Fully masked rows are even there, over padding and text alike."""
    options = FAMILIES["Bloom"][0]
    if family == "Mpt":
        options = {"vocab_size": 60, "d_model": 32, "n_heads": 4, "n_layers": 2}
    model = zoo.transformers_model(f"{family}Model", f"{family}Config", **options)
    ids, mask = batch("left")
    padded = captured(model, input_ids=ids, attention_mask=mask.long())
    assert all(torch.equal(record.live, mask) for record in padded)
    for row, chains in enumerate(padded.select(layers=1)):
        alone = captured(model, input_ids=ids[row : row + 1, mask[row]])
        expected = alone.select(layers=1)[0].to_dense()
        places = mask[row].nonzero()[:, 0]
        found = chains.to_dense()[:, places][..., places]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", ["even", "causal and even"])
def test_even_attention_is_no_padding(shape):
    matrix = torch.ones(1, 2, 5, 5)
    matrix = matrix.tril() if shape == "causal and even" else matrix
    matrix = matrix / matrix.sum(-1, keepdim=True)
    assert DenseRecord(AttentionSite(0, "attn", "self"), matrix).live.all()


def test_without_a_mask_all_tokens_live():
    attention = captured(text.llama().model, input_ids=zoo.tokens(2, 5))
    assert bool(attention[0].live.all())
    assert [c.n_states for c in attention[0].chains()] == [5, 5]


def test_tokens_may_be_chosen_by_hand():
    attention = captured(text.llama().model, input_ids=zoo.tokens(2, 5))
    tokens = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    assert [c.n_states for c in attention[0].chains(tokens=tokens)] == [3, 5]
    with pytest.raises(ShapeError, match=r"boolean mask \(2, 5\)"):
        attention[0].chains(tokens=tokens[0])


def test_cross_attention_knows_the_live_keys():
    model = zoo.t5()
    ids, mask = batch("right")
    attention = captured(
        model,
        input_ids=ids,
        attention_mask=mask.long(),
        decoder_input_ids=zoo.tokens(3, 4),
    )
    for record in attention.matching(kind="cross"):
        assert torch.equal(record.live, mask)
        with pytest.raises(ShapeError, match="no chain"):
            record.chains()


@pytest.mark.parametrize("keep", ["qk", "dense", "mean"])
def test_a_text_of_padding_only_is_named(keep):
    model, _ = build("Roberta")
    ids, mask = batch("right")
    mask[1] = False
    with capture(model, keep=keep) as attention, torch.no_grad():
        model(input_ids=ids, attention_mask=mask.long())
    with pytest.raises(ArgumentError, match="input 1 of the batch is left no token"):
        attention.select(layers=0)


class Masked(torch.nn.Module):
    """Fused attention under an additive mask."""

    def forward(self, x, mask):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, mask)


@pytest.mark.parametrize("number", [-10_000.0, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("keep", ["qk", "dense", "mean"])
def test_numbers_that_stand_for_a_mask(keep, number):
    """They spread a fully masked row over all keys evenly, padding among them."""
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, :, :, :2] = mask[1, :, :2] = number
    model = Masked()
    with capture(model, keep=keep) as attention:
        model(zoo.numbers(2, 2, 5, 4), mask)
    expected = torch.ones(2, 5, dtype=torch.bool)
    expected[1, :2] = False
    assert torch.equal(attention[0].live, expected)
    assert [chain.n_states for chain in attention[0].chains()] == [5, 3]


def test_a_mask_of_another_sequence_is_not_taken():
    """By hand, as many latents as tokens: the mask of the tokens is not theirs."""

    class Latents(torch.nn.Module):
        def forward(self, x, attention_mask):
            del attention_mask
            return (x @ x.mT).softmax(-1) @ x

    model, mask = Latents(), torch.tensor([[1, 1, 1, 0]])
    with capture(model) as attention:
        model(zoo.numbers(1, 4, 8), attention_mask=mask)
    assert attention[0].live.all()
