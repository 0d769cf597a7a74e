"""Tokenizers made on the spot, like those of CLIP, T5, GPT-2 and BERT, few pieces."""

from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 12


def clip_tokenizer() -> Any:
    """Returns a tokenizer like CLIP's: begin, pieces of lower-case words, end, padding.

    "cat" is one piece; other words are spelt letter by letter.
    """
    from tokenizers import decoders, models, normalizers, pre_tokenizers

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
        decoder=decoders.BPEDecoder("</w>"),
    )


def t5_tokenizer() -> Any:
    """Returns a tokenizer like T5's: pieces with a mark for the space, end, padding.

    "cat" is two pieces; other words are spelt letter by letter.
    """
    from tokenizers import decoders, models, pre_tokenizers

    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁c", "at", *LETTERS, *LETTERS.upper()]
    pieces += [*",.!"]
    scores = [(piece, -1.0 if piece in ("▁c", "at") else -3.0) for piece in pieces]
    return _fast(
        models.Unigram(scores, unk_id=2),
        pre_tokenizers.Metaspace(),
        template="$A </s>",
        special={"</s>": 1},
        padding="<pad>",
        decoder=decoders.Metaspace(),
    )


def gpt2_tokenizer() -> Any:
    """Returns a tokenizer like GPT-2's: bytes, spaces in front of words, no padding.

    "cat" and " cat" are one piece each; other words are spelt byte by byte.
    """
    from tokenizers import decoders, models, pre_tokenizers

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ġ", "d")]
    pieces += ["<|end|>", *("".join(pair) for pair in merges)]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    return _fast(
        models.BPE(vocab=numbers, merges=merges),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        special={"<|end|>": numbers["<|end|>"]},
        decoder=decoders.ByteLevel(),
    )


def bert_tokenizer() -> Any:
    """Returns a tokenizer like BERT's: lower-case words, their later pieces marked.

    "cat" and "red" are one piece each; other words are spelt letter by letter.
    """
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    later = [f"##{letter}" for letter in LETTERS]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *LETTERS,
        *later,
        "cat",
        "red",
        *",.!",
    ]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    return _fast(
        models.WordPiece(vocab=numbers),
        pre_tokenizers.BertPreTokenizer(),
        template="[CLS] $A [SEP]",
        special={"[CLS]": 2, "[SEP]": 3},
        padding="[PAD]",
        normalizer=normalizers.BertNormalizer(),
        decoder=decoders.WordPiece(),
    )


def _fast(
    model: Any,
    splitter: Any,
    *,
    special: dict[str, int],
    decoder: Any,
    template: str | None = None,
    padding: str | None = None,
    normalizer: Any = None,
) -> Any:
    """A fast tokenizer of transformers around a tokenizer's parts."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoder
    tokenizer.add_special_tokens([*special, padding] if padding else [*special])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if template is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=list(special.items())
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=padding, model_max_length=LENGTH
    )
