"""Words: where attention between text and picture tokens leads from a word."""

from attnchain.text.diffusion import read_diffusion, read_generation, show_picture
from attnchain.text.prompt_attention import TextAttention, text_attention
from attnchain.text.word_reading import (
    WordReading,
    checked_prompt,
    draw_words,
    read_words,
)
from attnchain.text.words import WordSegmentation, segment_words

__all__ = [
    "TextAttention",
    "WordReading",
    "WordSegmentation",
    "checked_prompt",
    "draw_words",
    "read_diffusion",
    "read_generation",
    "read_words",
    "segment_words",
    "show_picture",
    "text_attention",
]
