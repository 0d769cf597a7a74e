"""Methods measured against their peers, on data sets given as folders.

open_data_set: pictures and labels by the layout of their folders.
own_data_set: pictures and masks of one's own.
read_labels: a label picture, by what its values mean (numbered_objects).
score_masks: masks that come from anywhere.
PROTOCOLS: ways of scoring; scores of two protocols are not comparable.
run: scores the pictures one by one and survives being killed.
Table, Run: what comes out.
"""

from attnchain.evaluate.catalogue import LAYOUTS, open_data_set, own_data_set
from attnchain.evaluate.datasets import DataSet
from attnchain.evaluate.labels import numbered_objects, read_labels
from attnchain.evaluate.protocol import Protocol
from attnchain.evaluate.protocols import PROTOCOLS
from attnchain.evaluate.report import Table
from attnchain.evaluate.running import Run, run
from attnchain.evaluate.scoring import Scores, score_masks

__all__ = [
    "LAYOUTS",
    "PROTOCOLS",
    "DataSet",
    "Protocol",
    "Run",
    "Scores",
    "Table",
    "numbered_objects",
    "open_data_set",
    "own_data_set",
    "read_labels",
    "run",
    "score_masks",
]
