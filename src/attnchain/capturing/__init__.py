"""From a running model to chains: queries and keys of every attention call.

`capture` runs around any PyTorch model, or diffusion pipeline, and gives a
`CapturedAttention`: a sequence of `AttentionRecord` (or `DenseRecord`), each at an
`AttentionSite` and with a `TokenGrid`. `TextTokens` finds the positions of a word.
"""

from attnchain.capturing.capture import capture
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.queries import AttentionRecord
from attnchain.capturing.record import AbstractRecord, DenseRecord
from attnchain.capturing.result import CapturedAttention
from attnchain.capturing.site import AttentionSite, Selection
from attnchain.capturing.words import TextTokens, prompt_tokens

__all__ = [
    "AbstractRecord",
    "AttentionRecord",
    "AttentionSite",
    "CapturedAttention",
    "DenseRecord",
    "Selection",
    "TextTokens",
    "TokenGrid",
    "capture",
    "prompt_tokens",
]
