"""Words found by every kind of tokenizer: what stands there, decoded, is the word."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnchain.capturing import TextTokens, TokenGrid
from attnchain.capturing.prompts import PROMPTS
from attnchain.errors import GridError, WordNotFoundError
from attnchain.testing.models import tokenizers

KINDS = {
    "byte-level BPE (GPT-2)": tokenizers.gpt2_tokenizer(),
    "BPE with ends of words (CLIP)": tokenizers.clip_tokenizer(),
    "unigrams (T5, Gemma)": tokenizers.t5_tokenizer(),
    "WordPiece (BERT)": tokenizers.bert_tokenizer(),
}


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request):
    return KINDS[request.param]


def letters(text):
    """Letters alone, in lower case, as the tokenizers know them."""
    return "".join(re.findall(r"[a-z]", text.lower()))


WORDS = st.sampled_from(["cat", "red", "dog", "at", "concat"])
GAPS = st.sampled_from([" ", ", ", ". ", "! "])


@settings(deadline=None)
@given(
    words=st.lists(st.tuples(WORDS, GAPS), min_size=1, max_size=6), k=st.integers(0, 5)
)
def test_what_stands_at_the_positions_is_the_word(tokenizer, words, k):
    text = "".join(word + gap for word, gap in words).strip()
    word = words[k % len(words)][0]
    n_times = [other for other, _ in words].count(word)
    numbers = tokenizer(text).input_ids
    for tokens in (
        TextTokens.of(tokenizer, text),
        TextTokens.of_ids(tokenizer, numbers),
    ):
        assert len(tokens) == len(numbers)
        found = [tokens.find(word, occurrence=i) for i in range(n_times)]
        assert tokens.find(word) == tuple(i for one in found for i in one)
        for one in found:
            assert one == tuple(range(one[0], one[-1] + 1))
            assert letters(tokenizer.decode([numbers[i] for i in one])) == word
        others = [n for i, n in enumerate(numbers) if i not in tokens.find(word)]
        rest = letters(tokenizer.decode(others, skip_special_tokens=True))
        assert len(rest) == len(letters(text)) - n_times * len(word)


def test_a_word_that_occurs_twice_with_and_without_a_space(tokenizer):
    tokens = TextTokens.of(tokenizer, "cat, a cat.")
    first, second = (tokens.find("cat", occurrence=k) for k in range(2))
    assert (
        tokens.pieces[first[0]].strip()[0] == tokens.pieces[second[0]].strip()[0] == "c"
    )
    assert first[-1] < second[0]


def test_a_leading_space_is_no_word(tokenizer):
    tokens = TextTokens.of(tokenizer, " cat")
    assert "".join(tokens.pieces[i] for i in tokens.find("cat")).strip() == "cat"
    with pytest.raises(WordNotFoundError, match="not in the text"):
        tokens.find(" ")


@pytest.mark.parametrize("kind", [k for k in KINDS if "GPT-2" not in k])
def test_a_word_beyond_truncation(kind):
    tokens = TextTokens.of(KINDS[kind], "red " * 12 + "cat", length=8)
    assert len(tokens) == 8
    with pytest.raises(WordNotFoundError, match="beyond the 8 token positions"):
        tokens.find("cat")


def test_a_word_beyond_truncation_without_padding():
    tokens = TextTokens.of(tokenizers.gpt2_tokenizer(), "red red red cat", length=4)
    with pytest.raises(WordNotFoundError, match="beyond the 4 token positions"):
        tokens.find("cat")


def test_padding_without_a_token_for_it_is_refused():
    tokenizer = tokenizers.gpt2_tokenizer()
    with pytest.raises(
        WordNotFoundError, match=r"12 of 1 tokens; set tokenizer.pad_token"
    ):
        TextTokens.of(tokenizer, "cat", length=12)
    tokenizer.pad_token = "<|end|>"  # noqa: S105
    assert len(TextTokens.of(tokenizer, "cat", length=12)) == 12


def test_padding_on_the_left(tokenizer):
    before, token = tokenizer.padding_side, tokenizer.pad_token
    tokenizer.padding_side = "left"
    tokenizer.pad_token = token or "<|end|>"
    tokens = TextTokens.of(tokenizer, "a cat", length=9)
    numbers = tokenizer("a cat", padding="max_length", max_length=9).input_ids
    tokenizer.padding_side, tokenizer.pad_token = before, token
    found = tokens.find("cat")
    assert letters(tokenizer.decode([numbers[i] for i in found])) == "cat"
    assert found[-1] >= 7
    assert TextTokens.of_ids(tokenizer, numbers).find("cat") == found


def test_characters_of_several_tokens_are_read_back():
    """Bytes of one character are given together, and a cut one is given up."""
    tokenizer = tokenizers.gpt2_tokenizer()
    text = "naïve cat 日本 café"
    numbers = tokenizer(text).input_ids
    tokens = TextTokens.of_ids(tokenizer, numbers)
    assert tokens.text == text
    for word in ("naïve", "cat", "日本", "café"):
        found = tokens.find(word)
        assert tokenizer.decode([numbers[i] for i in found]).strip() == word
    assert TextTokens.of_ids(tokenizer, numbers[:-1]).spans[-1] is None


def test_a_prompt_longer_than_what_is_decoded_at_once():
    tokenizer = tokenizers.t5_tokenizer()
    text = " ".join(["the", "cat", "sat"] * 10)
    tokens = TextTokens.of_ids(tokenizer, tokenizer(text).input_ids)
    assert tokens.text == text
    assert tokens.find("cat") == TextTokens.of(tokenizer, text).find("cat")


def test_words_round_special_tokens_stay_apart():
    tokenizer = tokenizers.t5_tokenizer()
    one, other = (
        tokenizer(word, add_special_tokens=False).input_ids for word in ("a", "cat")
    )
    tokens = TextTokens.of_ids(tokenizer, [*one, *[1] * 20, *other])
    assert tokens.find("cat") == tuple(range(len(one) + 20, len(tokens)))


def test_words_round_a_picture():
    """Positions in a prompt of LLaVA are those of its grid."""
    tokenizer = tokenizers.t5_tokenizer()
    cat = tokenizer("a cat").input_ids
    n = 16 + 2 * len(cat)
    grid = TokenGrid(
        4,
        4,
        prefix=len(cat),
        suffix=len(cat),
        places=tuple(range(len(cat), n - len(cat))),
    )
    tokens = TextTokens.of_ids(tokenizer, [*cat, *[1] * 16, *cat])
    first, second = (tokens.find("cat", grid=grid, occurrence=k) for k in range(2))
    assert second == tuple(i + len(cat) + 16 for i in first)
    assert not set(first + second) & set(grid.positions)
    with pytest.raises(GridError, match=r"no text of their own.*whole sequence"):
        TextTokens.of(tokenizer, "a cat").find("cat", grid=grid)


def test_a_word_beyond_the_text_of_a_grid():
    tokens = TextTokens.of(tokenizers.clip_tokenizer(), "dog dog cat", length=12)
    with pytest.raises(WordNotFoundError, match="beyond the 4 token positions"):
        tokens.find("cat", grid=TokenGrid.of_text(4))


def test_every_pipeline_whose_words_are_found_has_its_vocabulary_checked():
    assert PROMPTS
    assert all(rule.tokenizers for rule in PROMPTS.values())
