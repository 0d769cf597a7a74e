"""Texts of different lengths in one batch: each is what it is alone."""

import pytest
import torch
from tests.capturing import zoo

from attnchain import token_rank
from attnchain.capturing import capture
from attnchain.errors import PaddingWarning, ShapeError
from attnchain.markov import second_eigenvalue
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
}


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


@pytest.mark.parametrize("family", ["Roberta", "Qwen2"])
def test_questions_are_answered_as_for_the_text_alone(family):
    model, side = build(family)
    ids, mask = batch(side)
    given = {"input_ids": ids, "attention_mask": mask.long()}
    if side == "left":
        given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    [first, _] = captured(model, **given)
    for row, chain in enumerate(first.chains(heads=1)):
        alone = captured(model, input_ids=ids[row : row + 1, mask[row]])
        own = alone.select(layers=0, heads=1)[0]
        for direction in ("incoming", "outgoing"):
            ranks = [token_rank(c, direction=direction) for c in (chain, own)]
            torch.testing.assert_close(
                ranks[0].distribution, ranks[1].distribution, atol=1e-5, rtol=0
            )
        moduli = [second_eigenvalue(c).modulus for c in (chain, own)]
        torch.testing.assert_close(*moduli, atol=1e-4, rtol=0)


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


def test_chains_with_padding_among_their_states_are_told():
    model, side = build("Roberta")
    ids, mask = batch(side)
    attention = captured(model, input_ids=ids, attention_mask=mask.long())
    with pytest.warns(PaddingWarning, match=r"10 of 27 tokens .* \.chains\(\)"):
        attention.select(layers=0)
