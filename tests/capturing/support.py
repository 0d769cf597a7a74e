"""Writes docs/support.md from the cases, by running them: `python -m` this module."""

from pathlib import Path

import torch
from tests.capturing.cases import CASES
from tests.capturing.test_by_hand import FAMILIES
from tests.capturing.test_families import tensors
from tests.capturing.test_pipelines import RUNS

from attnchain.capturing import TokenGrid, capture
from attnchain.testing.models import pipelines

PAGE = Path(__file__).parents[2] / "docs" / "support.md"

HEAD = """# Supported models

This page is written by `python -m tests.capturing.support`, which runs every case of
`tests/capturing/cases.py`; a test fails when it is out of date. Every row is a tiny
model with random weights, built from its configuration, whose captured attention was
compared with an independent answer. "Outputs" says whether the model's outputs with
and without capture are the same to the last bit, or agree to rounding because capture
switches from the library's own path to torch's fused attention.

"""

COLUMNS = (
    "Library",
    "Family",
    "Class",
    "Sites",
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

Any other PyTorch module is captured wherever it calls
`torch.nn.functional.scaled_dot_product_attention`, its token layout given by hand.
Compiled models run uncompiled inside the block. Attention computed by hand is read as a
matrix where the softmax can be followed to the values it weighs
(`tests/capturing/test_by_hand.py`): {by_hand} of transformers, TrOCR, and ordinary code
with `softmax` and a product. It is named in a warning, and refused where there is
nothing else, where it cannot be followed: Longformer, block-sparse BigBird, CaiT.
Refused with a message that names the switch to use: flash-attention, flex-attention,
sage-attention and xFormers back ends, and scripted modules.
"""


def row(case):
    """One line of the table, from running the case."""
    tiny = case.build()
    matrices, plain = case.reference(tiny), tensors(tiny.run())
    with capture(tiny.model) as attention:
        watched = tensors(tiny.run())
    grids = dict.fromkeys(
        str(r.layout.queries) if isinstance(r.layout.queries, TokenGrid) else "by hand"
        for r in attention
    )
    cells = (
        case.library,
        case.family,
        f"`{type(tiny.model).__name__}`",
        ", ".join(f"{n} {kind}" for kind, n in attention.n_layers.items()),
        "; ".join(grids),
        case.reference.__doc__,
        largest_difference(attention, matrices),
        "same" if all(map(torch.equal, plain, watched)) else "to rounding",
    )
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
    tail = TAIL.format(
        pipelines="\n".join(f"* {name}" for name in names), by_hand=", ".join(FAMILIES)
    )
    return f"{HEAD}{table}\n{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
