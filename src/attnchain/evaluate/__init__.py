"""Methods measured against their peers, on data sets given as folders.

open_data_set: pictures and labels by the layout of their folders.
PROTOCOLS: ways of scoring; scores of two protocols are not comparable.
run: scores the pictures one by one and survives being killed.
Table, Run: what comes out.
"""

from attnchain.evaluate.catalogue import LAYOUTS, open_data_set
from attnchain.evaluate.datasets import DataSet
from attnchain.evaluate.protocol import Protocol
from attnchain.evaluate.protocols import PROTOCOLS
from attnchain.evaluate.report import Table
from attnchain.evaluate.running import Run, run

__all__ = [
    "LAYOUTS",
    "PROTOCOLS",
    "DataSet",
    "Protocol",
    "Run",
    "Table",
    "open_data_set",
    "run",
]
