"""A text's chains against the model's own eager attention, in dense float64."""

import numpy as np
import pytest
import torch
from tests.language.conftest import loaded

from attnchain.errors import (
    ArgumentError,
    SiteNotFoundError,
    UnsupportedModelError,
    WordNotFoundError,
)
from attnchain.language import compare, read_text
from attnchain.models import LoadedText

TEXT = "a cat and a dog; the cat ran"


def eager(model, text):
    """The model's own attention, (layers, heads, n, n), float64."""
    model.model.set_attn_implementation("eager")
    with torch.no_grad():
        given = model.model(**model.tokens(text), output_attentions=True).attentions
    model.model.set_attn_implementation("sdpa")
    return torch.stack(given)[:, 0].double()


def left_out(matrix, kept):
    part = matrix[..., kept, :][..., kept]
    return part / part.sum(-1, keepdim=True)


def stationary(matrix):
    n = len(matrix)
    system = np.vstack([np.eye(n) - matrix.numpy().T, np.ones(n)])
    return np.linalg.lstsq(system, np.eye(n + 1)[-1], rcond=None)[0]


@pytest.mark.parametrize("sink", ["drop", "keep"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_chains_are_the_models_attention_without_its_sinks(kind, sink):
    model = loaded(kind)
    reading = read_text(model, TEXT, sink=sink)
    whole = eager(model, TEXT)
    n = whole.shape[-1]
    specials = {"llama": [0], "bert": [0, n - 1]}[kind] if sink == "drop" else []
    kept = [place for place in range(n) if place not in specials]
    assert list(reading.kept) == kept
    assert reading.causal == (kind == "llama")
    assert len(reading.dropped) == len(specials)
    expected = left_out(whole, kept)
    found = torch.stack([layer.to_dense() for layer in reading.heads]).double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    values = torch.linalg.eigvals(expected).abs().sort(descending=True).values[..., 1]
    torch.testing.assert_close(reading.lambda2.double(), values, atol=1e-3, rtol=0)
    weights = reading.lambda2.double() / reading.lambda2.double().sum()
    mixed = (weights[..., None, None] * found).sum((0, 1))
    torch.testing.assert_close(
        reading.chain.to_dense().double(), mixed, atol=1e-6, rtol=0
    )
    damped = reading.damping * mixed + (1 - reading.damping) / len(kept)
    np.testing.assert_allclose(
        reading.incoming.distribution.numpy(), stationary(damped), atol=1e-5
    )
    turned = damped.T / damped.T.sum(-1, keepdim=True)
    np.testing.assert_allclose(
        reading.outgoing.distribution.numpy(), stationary(turned), atol=1e-5
    )


def test_damping_is_stronger_where_walks_end_in_one_token(llama, bert):
    assert read_text(llama, TEXT).damping == 0.85
    assert read_text(bert, TEXT).damping == 0.99
    assert "0.85" in read_text(llama, TEXT).summary()
    assert "left out: a" in read_text(llama, TEXT).treatment


def test_tokens_carry_the_characters_they_stand_for(bert):
    reading = read_text(bert, "A cat")
    assert reading.names[0] == "[CLS]"
    assert reading.dropped == ("[CLS]", "[SEP]")
    spelt = "".join(reading.text[a:b] for a, b in filter(None, reading.spans))
    assert spelt == "Acat"


def test_bounces_are_powers_of_the_chain(llama):
    reading = read_text(llama, TEXT)
    start = torch.zeros(len(reading.tokens)).double()
    places = [i for i, name in enumerate(reading.tokens) if name == "cat"]
    start[places] = 1 / len(places)
    matrix = reading.chain.to_dense().double()
    for step in reading.bounces("cat", 4):
        start = start @ matrix
        torch.testing.assert_close(step.double(), start, atol=1e-5, rtol=0)


def test_words_that_are_not_there_are_named(llama):
    with pytest.raises(WordNotFoundError, match="bird"):
        read_text(llama, TEXT).find("bird")
    with pytest.raises(WordNotFoundError, match="left out of the chains"):
        read_text(llama, "cat ab").find("cat")


def test_groups_partition_the_kept_tokens(bert):
    reading = read_text(bert, TEXT)
    if reading.groups is not None:
        assert len(reading.groups.labels) == len(reading.tokens)
    facts = reading.facts()
    assert facts["groups"] is None or sum(map(len, facts["groups"])) == len(
        reading.tokens
    )


def test_sinks_are_told_by_position_in_the_whole_input():
    told = []
    for seed in range(6):
        model = loaded("llama", seed)
        reading, matrices = read_text(model, TEXT), eager(model, TEXT)
        n = len(reading.names)
        for sink in reading.sinks:
            means = matrices[..., sink.token].sum(-1) / (n - sink.token)
            assert sink.mass == pytest.approx(float(means.mean()), abs=1e-5)
            assert sink.largest == pytest.approx(float(means.max()), abs=1e-5)
            told.append(sink.token)
    assert told


def test_rows_have_one_entry_for_each_token(bert):
    reading = read_text(bert, TEXT)
    rows = reading.rows()
    assert [row["token"] for row in rows] == list(reading.names)
    assert rows[0]["incoming"] is None
    assert sum(row["incoming"] or 0 for row in rows) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_layers_can_be_chosen(kind):
    model = loaded(kind)
    assert read_text(model, TEXT, layers=-1).layers == (1,)
    with pytest.raises(SiteNotFoundError):
        read_text(model, TEXT, layers=7)


def test_what_cannot_be_read_is_refused(llama, bert):
    with pytest.raises(ArgumentError, match="token\\(s\\) to walk between"):
        read_text(llama, "ab")
    with pytest.raises(ArgumentError, match="sink must be"):
        read_text(llama, TEXT, sink="no")
    with pytest.raises(UnsupportedModelError, match="reads something else"):
        read_text(bert.model, TEXT)
    bert.model.config.is_encoder_decoder = True
    with pytest.raises(UnsupportedModelError, match="writes another"):
        read_text(bert, TEXT)


def test_a_notebook_shows_the_tokens_by_rank(bert):
    shown = read_text(bert, "a <cat> ran")._repr_html_()
    assert shown.count("<span") == len(read_text(bert, "a <cat> ran").names)
    assert "rgba(31,95,191,1.00)" in shown
    assert "&lt;" in shown


def test_the_numbers_are_saved_with_a_picture(llama, tmp_path):
    files = read_text(llama, TEXT).save(tmp_path, stem="cat")
    assert {file.name for file in files} == {"cat-text.json", "cat-text.png"}
    assert repr(read_text(llama, TEXT)).startswith("TextReading(tiny llama, ")


# Comparing


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_model_is_like_itself(kind):
    reading = read_text(loaded(kind), TEXT)
    same = compare(reading, read_text(loaded(kind), TEXT))
    assert same.correlation == pytest.approx((1, 1))
    torch.testing.assert_close(same.incoming[0], same.incoming[1])
    assert [pair[:2] for pair in same.nearest] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(cosine == pytest.approx(1) for *_, cosine in same.nearest)


def test_ranks_of_pieces_add_up_to_words():
    """The two tokenizers cut the words differently; each word has its whole share."""
    first = read_text(loaded("llama"), TEXT)
    second = read_text(loaded("bert"), TEXT)
    found = compare(first, second)
    assert found.words == ("cat", "and", "a", "dog", ";", "the", "cat", "ran")
    torch.testing.assert_close(found.incoming.sum(-1), torch.ones(2).double())
    of_word, of_all = 0, 0
    ranks = first.incoming.distribution.tolist()
    for place, share in zip(first.kept, ranks, strict=True):
        start, end = first.spans[place]
        of_word += share * bool(set(range(start, end)) & {6, 7, 8})
        of_all += share * bool(TEXT[start:end].strip())
    assert float(found.incoming[0, 1]) == pytest.approx(of_word / of_all, rel=1e-5)
    assert "tiny bert" in found.summary()
    assert found.facts()["words"] == found.words


def test_texts_must_be_the_same(llama):
    with pytest.raises(ArgumentError, match="one text"):
        compare(read_text(llama, TEXT), read_text(llama, TEXT + "."))


def test_a_model_of_ones_own_is_read(llama):
    own = LoadedText("mine", "Mine.", llama.model, llama.tokenizer)
    assert read_text(own, TEXT).model_name == "mine"
