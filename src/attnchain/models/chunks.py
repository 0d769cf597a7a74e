"""What of a PNG file is needed to show it."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WANTED = (b"tRNS", b"eXIf")


def essential_chunks(stream: BinaryIO) -> BinaryIO | None:
    """A PNG without the chunks that viewers may ignore.

    A colour profile, a comment or a time may be damaged or huge: Pillow then refuses a
    picture that every viewer shows.

    Args:
        stream: The file, read from its beginning.

    Returns:
        Header, palette, pixels, and, where they are whole, transparency and
        orientation; None where the file is no PNG.
    """
    stream.seek(0)
    if stream.read(len(_SIGNATURE)) != _SIGNATURE:
        return None
    kept = io.BytesIO()
    kept.write(_SIGNATURE)
    for kind, chunk in _chunks(stream):
        critical = not kind[:1].islower()
        if critical or (kind in _WANTED and _is_whole(chunk)):
            kept.write(chunk)
    kept.seek(0)
    return kept


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, head + stream.read(length + 4)


def _is_whole(chunk: bytes) -> bool:
    return struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]
