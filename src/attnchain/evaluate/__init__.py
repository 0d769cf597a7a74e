"""Methods measured against their peers, on data sets given as folders.

open_data_set: pictures and labels by the layout of their folders.
PROTOCOLS: ways of scoring; scores of two protocols are not comparable.
run: scores the pictures one by one and survives being killed.
Table, Run: what comes out.
"""

from attnchain.evaluate.click_protocol import ClickProtocol
from attnchain.evaluate.datasets import LAYOUTS, DataSet, open_data_set
from attnchain.evaluate.masking_protocol import MaskingProtocol
from attnchain.evaluate.object_protocol import ObjectProtocol
from attnchain.evaluate.protocol import Protocol
from attnchain.evaluate.region_protocol import RegionProtocol
from attnchain.evaluate.running import Run, run
from attnchain.evaluate.table import Table

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol
    for protocol in (ObjectProtocol, ClickProtocol, RegionProtocol, MaskingProtocol)
}

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
