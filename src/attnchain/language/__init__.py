"""A text's attention as chains over its tokens.

read_text: a model and a text; gives a `TextReading`.
TextReading: its tokens, heads, ranks, bounces, groups and sinks.
compare, Comparison: two models on one text.
read_answer: a vision-language model's run, as an `AnswerReading`.
WordInPicture: what its `where` gives.
serve_attention, ServedAttention, RequestAttention: O(n) numbers of served requests.
token_rank_press, key_scores: which keys and values of a cache kvpress keeps.
"""

from attnchain.language.answer_reading import AnswerReading, read_answer
from attnchain.language.cache_press import key_scores, token_rank_press
from attnchain.language.comparing import Comparison, compare
from attnchain.language.read_text import read_text
from attnchain.language.served_requests import (
    RequestAttention,
    ServedAttention,
    serve_attention,
)
from attnchain.language.text_reading import TextReading
from attnchain.language.word_in_picture import WordInPicture

__all__ = [
    "AnswerReading",
    "Comparison",
    "RequestAttention",
    "ServedAttention",
    "TextReading",
    "WordInPicture",
    "compare",
    "key_scores",
    "read_answer",
    "read_text",
    "serve_attention",
    "token_rank_press",
]
