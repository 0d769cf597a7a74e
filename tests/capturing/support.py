"""Writes docs/support.md from the cases, by running them: `python -m` this module."""

from pathlib import Path

import torch
from tests.capturing.cases import CASES
from tests.capturing.test_by_hand import FAMILIES, build, captured, extra
from tests.capturing.test_families import tensors
from tests.capturing.test_pipelines import RUNS

from attnchain.capturing import AttentionRecord, DenseRecord, TokenGrid, capture
from attnchain.testing.models import pipelines

PAGE = Path(__file__).parents[2] / "docs" / "support.md"

HEAD = """# Supported models

This page is written by `python -m tests.capturing.support`, which runs every case of
`tests/capturing/cases.py`; a test fails when it is out of date. Every row is a tiny
model with random weights, built from its configuration, whose captured attention was
compared with an independent answer. "Attention" says whether queries and keys of fused
attention were read, or a matrix that the model computes by hand; "token layouts", which
grids are known, the others to be given (`capture(model, grid=...)`); "outputs", whether
the model's outputs with and without capture are the same to the last bit, or agree to
rounding because capture switches from the library's own path to fused attention.

"""

COLUMNS = (
    "Library",
    "Family",
    "Class",
    "Sites",
    "Attention",
    "Token layouts",
    "Compared with",
    "Largest difference",
    "Outputs",
)

TAIL = """
Diffusion pipelines are captured as a whole, their steps counted and batches split into
the sides of classifier-free guidance (`tests/capturing/test_pipelines.py`):

{pipelines}

In any other pipeline steps are counted, but batches are not split.

Where a model is given `input_ids` and nothing that is no text, its grid is a sequence,
whatever its family. Patches of pictures among the words of a prompt are found in LLaVA,
LLaVA-NeXT, PaliGemma, Gemma 3, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Idefics 3, SmolVLM and
InternVL (`tests/capturing/test_picture_tokens.py`): `record.grid` is that of the first
picture, `record.grid.views` are those of all. Not known are the tiles of InternVL: the
model is not told how they are arranged (`capturing.picture_in_tiles` makes their grid);
the sizes of pictures in `generate` of LLaVA-NeXT, which are kept from the model; the
windows of Qwen2.5-VL's tower; prompts of one batch with pictures at different places.

Any other PyTorch module is captured wherever it calls
`torch.nn.functional.scaled_dot_product_attention`, its token layout given by hand.
Compiled models run uncompiled inside the block. Attention computed by hand is read as a
matrix where the softmax can be followed to the values it weighs
(`tests/capturing/test_by_hand.py`), and compared with `output_attentions`; so it is in
TrOCR, and in ordinary code with `softmax` and a product:

{by_hand}

So are, compared with their own weights in `tests/capturing/test_own_weights.py`, LeViT,
MViTv2, VOLO, CrossViT and Swin v2 of timm, Swin of torchvision, and ViLT, WavLM and
Mask2Former (but for its sampling at points of a map) of transformers.

Where it cannot be followed it is named in a warning, and refused where there is nothing
else: Longformer, block-sparse BigBird, CaiT. Refused with a message that names the
switch to use: flash-attention, flex-attention, sage-attention and xFormers back ends,
and scripted modules.
"""


def row(case):
    """One line of the table, from running the case."""
    tiny = case.build()
    matrices, plain = case.reference(tiny), tensors(tiny.run())
    with capture(tiny.model) as attention:
        watched = tensors(tiny.run())
    cells = (
        case.library,
        case.family,
        f"`{type(tiny.model).__name__}`",
        ", ".join(f"{n} {kind}" for kind, n in attention.n_layers.items()),
        how_read(attention),
        layouts(attention),
        case.reference.__doc__,
        largest_difference(attention, matrices),
        "same" if all(map(torch.equal, plain, watched)) else "to rounding",
    )
    return line(cells)


def how_read(attention):
    """Queries and keys of fused attention, or matrices computed by hand."""
    kinds = {type(record) for record in attention}
    names = {AttentionRecord: "fused", DenseRecord: "by hand"}
    return ", ".join(name for kind, name in names.items() if kind in kinds)


def layouts(attention):
    """The token grids of the queries, in order of appearance."""
    grids = (record.layout.queries for record in attention)
    return "; ".join(
        dict.fromkeys(
            str(g) if isinstance(g, TokenGrid) else "to be given" for g in grids
        )
    )


def by_hand_row(family):
    """A family that computes its attention by hand."""
    model = build(family, FAMILIES[family][0])
    attention = captured(model, **FAMILIES[family][1], **extra(family))
    cells = ("transformers", family, how_read(attention), layouts(attention))
    return line(cells)


def line(cells):
    """Cells between bars."""
    return f"| {' | '.join(cells)} |"


def largest_difference(attention, matrices):
    """Coarse, so that it reads alike on every machine."""
    largest = max(
        float((record.probabilities() - matrix).abs().max())
        for record, matrix in zip(attention, matrices, strict=True)
    )
    return "< 1e-5" if largest < 1e-5 else f"{largest:.0e}"


def page():
    """The whole page."""
    names = [type(getattr(pipelines, name)()).__name__ for name in RUNS]
    head = [line(COLUMNS), "|" + "---|" * len(COLUMNS)]
    table = "\n".join([*head, *(row(case) for case in CASES)])
    columns = ("Library", "Family", "Attention", "Token layouts")
    by_hand = "\n".join(
        [line(columns), "|" + "---|" * 4, *(by_hand_row(family) for family in FAMILIES)]
    )
    tail = TAIL.format(
        pipelines="\n".join(f"* {name}" for name in names), by_hand=by_hand
    )
    return f"{HEAD}{table}\n{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
