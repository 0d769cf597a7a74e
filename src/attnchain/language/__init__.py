"""A text's attention as chains over its tokens.

read_text: a model and a text; gives a `TextReading`.
TextReading: its tokens, heads, ranks, bounces, groups and sinks.
compare, Comparison: two models on one text.
"""

from attnchain.language.comparing import Comparison, compare
from attnchain.language.read_text import read_text
from attnchain.language.text_reading import TextReading

__all__ = ["Comparison", "TextReading", "compare", "read_text"]
