"""One file for each way of scoring."""

from attnchain.evaluate.protocol import Protocol
from attnchain.evaluate.protocols.clicking import ClickProtocol
from attnchain.evaluate.protocols.foreground import ForegroundProtocol
from attnchain.evaluate.protocols.regions import RegionProtocol
from attnchain.evaluate.protocols.token_masking import MaskingProtocol

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol
    for protocol in (ForegroundProtocol, ClickProtocol, RegionProtocol, MaskingProtocol)
}

__all__ = ["PROTOCOLS"]
