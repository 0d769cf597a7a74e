"""Tokenizers made on the spot, like those of CLIP and T5 but with few pieces."""

from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 12


def clip_tokenizer() -> Any:
    """Returns a tokenizer like CLIP's: begin, pieces of lower-case words, end, padding.

    "cat" is one piece; other words are spelt letter by letter.
    """
    from tokenizers import models, normalizers, pre_tokenizers

    ends = [f"{letter}</w>" for letter in LETTERS]
    pieces = ["<|end|>", "<|begin|>", *LETTERS, *ends, "at</w>", "cat</w>"]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    merges = [("a", "t</w>"), ("c", "at</w>")]
    return _fast(
        models.BPE(vocab=numbers, merges=merges, end_of_word_suffix="</w>"),
        pre_tokenizers.Whitespace(),
        template="<|begin|> $A <|end|>",
        special={"<|begin|>": 1, "<|end|>": 0},
        padding="<|end|>",
        normalizer=normalizers.Lowercase(),
    )


def t5_tokenizer() -> Any:
    """Returns a tokenizer like T5's: pieces with a mark for the space, end, padding.

    "cat" is two pieces; other words are spelt letter by letter.
    """
    from tokenizers import models, pre_tokenizers

    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁c", "at", *LETTERS, *LETTERS.upper()]
    scores = [(piece, -1.0 if piece in ("▁c", "at") else -3.0) for piece in pieces]
    return _fast(
        models.Unigram(scores, unk_id=2),
        pre_tokenizers.Metaspace(),
        template="$A </s>",
        special={"</s>": 1},
        padding="<pad>",
    )


def _fast(
    model: Any,
    splitter: Any,
    *,
    template: str,
    special: dict[str, int],
    padding: str,
    normalizer: Any = None,
) -> Any:
    """A fast tokenizer of transformers around a tokenizer's parts."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=list(special.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=padding, model_max_length=LENGTH
    )
