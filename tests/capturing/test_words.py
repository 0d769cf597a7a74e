"""Positions of words: by the tokenizer that made the sequence, pieces and all."""

import pytest

from attnchain.capturing import TextTokens, TokenGrid, prompt_tokens
from attnchain.errors import UnsupportedModelError, WordNotFoundError
from attnchain.testing.models.tokenizers import clip_tokenizer, t5_tokenizer


def test_a_word_of_one_piece():
    tokens = TextTokens.of(clip_tokenizer(), "A cat", length=12)
    assert tokens.pieces[:4] == ("", "A", "cat", "")
    assert len(tokens) == 12
    assert tokens.find("cat") == (2,)


def test_a_word_of_several_pieces():
    tokens = TextTokens.of(t5_tokenizer(), "the cat sat", length=16)
    found = tokens.find("cat")
    assert [tokens.pieces[i].strip() for i in found] == ["c", "at"]


def test_clip_and_t5_differ():
    """CLIP's positions on T5's sequence would land on another word."""
    text = "the red cat"
    clip = TextTokens.of(clip_tokenizer(), text).find("cat")
    t5 = TextTokens.of(t5_tokenizer(), text)
    assert t5.find("cat") != clip
    assert not set(clip) & set(t5.find("cat"))


def test_upper_and_lower_case_are_alike():
    tokens = TextTokens.of(clip_tokenizer(), "A Cat")
    assert tokens.find("CAT") == tokens.find("Cat") == (2,)


def test_only_whole_words_are_found():
    tokens = TextTokens.of(t5_tokenizer(), "concat cat")
    assert "".join(tokens.pieces[i] for i in tokens.find("cat")) == " cat"


def test_all_occurrences_or_one():
    tokens = TextTokens.of(clip_tokenizer(), "cat dog cat")
    assert tokens.find("cat") == (1, 5)
    assert tokens.find("cat", occurrence=1) == (5,)
    assert tokens.find("dog cat") == (2, 3, 4, 5)


def test_a_tokenizer_of_the_tokenizers_library():
    raw = clip_tokenizer().backend_tokenizer
    assert TextTokens.of(raw, "A cat").find("cat") == (2,)
    assert len(TextTokens.of(raw, "A cat", length=7)) == 7


def test_positions_in_a_joint_sequence():
    tokens = TextTokens.of(t5_tokenizer(), "cat", length=4)
    grid = TokenGrid(2, 2, suffix=4, text=range(4, 8))
    assert tokens.find("cat", grid=grid) == tuple(4 + i for i in tokens.find("cat"))


@pytest.mark.parametrize("word", ["dog", "ca", ""])
def test_a_word_that_is_not_there(word):
    with pytest.raises(WordNotFoundError, match="not in the text"):
        TextTokens.of(clip_tokenizer(), "a cat").find(word)


@pytest.mark.parametrize("occurrence", [1, -1])
def test_an_occurrence_that_is_not_there(occurrence):
    with pytest.raises(WordNotFoundError, match="occurrence"):
        TextTokens.of(clip_tokenizer(), "a cat").find("cat", occurrence=occurrence)


def test_a_word_beyond_the_end_of_the_sequence():
    tokens = TextTokens.of(clip_tokenizer(), "dog dog dog cat", length=6)
    with pytest.raises(WordNotFoundError, match="beyond the 6 token positions"):
        tokens.find("cat")


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(WordNotFoundError, match="fast tokenizer"):
        TextTokens.of(Slow(), "a cat")


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"known are .*FluxPipeline"):
        prompt_tokens(object(), "a cat", 3)
