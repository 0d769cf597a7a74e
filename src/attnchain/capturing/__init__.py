"""From a running model to chains: queries and keys of every attention call.

`capture` runs around any PyTorch model, or diffusion pipeline, and gives a
`CapturedAttention`: a sequence of `AttentionRecord` (or `DenseRecord`), each at an
`AttentionSite` and with a `TokenGrid`. `attention_gradients` tells how a score depends
on the probabilities. `TextTokens` finds the positions of a word. `joined_passes` makes
one chain of a prompt and its answer.
`replaced_attention` runs a model with other attention than its own.
"""

from attnchain.capturing.backward import attention_gradients
from attnchain.capturing.calls import AttentionCall
from attnchain.capturing.capture import capture
from attnchain.capturing.continued import joined_passes
from attnchain.capturing.dense_records import DenseRecord
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.picture_tiles import picture_in_tiles
from attnchain.capturing.pipelines import GUIDED, UNCONDITIONAL_FIRST, Denoising
from attnchain.capturing.prompts import TextTokens, check_known, prompt_tokens
from attnchain.capturing.records import AbstractRecord, AttentionRecord
from attnchain.capturing.result import CapturedAttention, load_capture
from attnchain.capturing.sites import AttentionSite, Numbers, Selection
from attnchain.capturing.substitution import replaced_attention
from attnchain.capturing.switches import fused_attention

__all__ = [
    "GUIDED",
    "UNCONDITIONAL_FIRST",
    "AbstractRecord",
    "AttentionCall",
    "AttentionRecord",
    "AttentionSite",
    "CapturedAttention",
    "Denoising",
    "DenseRecord",
    "Numbers",
    "Selection",
    "TextTokens",
    "TokenGrid",
    "attention_gradients",
    "capture",
    "check_known",
    "fused_attention",
    "joined_passes",
    "load_capture",
    "picture_in_tiles",
    "prompt_tokens",
    "replaced_attention",
]
