"""Words: where attention between text and picture tokens leads from a word."""

from attnchain.text.diffusion import read_diffusion, show_picture
from attnchain.text.prompt_attention import TextAttention, text_attention
from attnchain.text.words import WordSegmentation, segment_words

__all__ = [
    "TextAttention",
    "WordSegmentation",
    "read_diffusion",
    "segment_words",
    "show_picture",
    "text_attention",
]
