"""Files that say they are ours: a signature inside, with the digest of the rest.

A file is only replaced where it carries one that still fits: a file of another
program has none, and one that was edited by hand no longer fits.
"""

import hashlib
import re
import struct
import zlib
from pathlib import Path

_HEAD = 4096
"""The signature lies within the first bytes of a file."""
_PNG = b"\x89PNG\r\n\x1a\n"
_AFTER_HEADER = 33
_PATTERN = re.compile(rb"attnchain of:([0-9a-f]{16}) sha256:([0-9a-f]{64})")
_CHUNK = re.compile(rb"....tEXtSoftware\0" + _PATTERN.pattern + rb"....", re.DOTALL)

KINDS = (".png", ".gif", ".json", ".html", ".md")
"""Files that can be signed; others are not replaced."""
UNSIGNED = f"attnchain of:{'0' * 16} sha256:{'0' * 64}"
"""What stands where the signature will be; of the same length."""


def signature(content: str, source: str) -> str:
    """The signature of a text that holds `UNSIGNED`.

    Args:
        content: The text.
        source: What the text tells about, such as the path of a picture.
    """
    return _signature(content.encode(), source).decode()


def signed(content: bytes, source: str) -> bytes:
    """A PNG, web page, JSON or Markdown file with its signature inside.

    Args:
        content: The file; it may hold `UNSIGNED` where the signature should be.
        source: What the file tells about, such as the path of a picture.
    """
    if content.startswith(_PNG):
        chunk = b"tEXtSoftware\0" + _signature(content, source)
        whole = struct.pack(">I", len(chunk) - 4) + chunk
        whole += struct.pack(">I", zlib.crc32(chunk))
        return content[:_AFTER_HEADER] + whole + content[_AFTER_HEADER:]
    found = _PATTERN.search(content, 0, _HEAD)
    if found is None:
        content = f"<!-- {UNSIGNED} -->\n".encode() + content
    elif found.group() != UNSIGNED.encode():
        return content
    return _PATTERN.sub(_signature(content, source), content, count=1)


def signed_for(file: Path) -> str | None:
    """Whom a file was signed for, see `source_mark`; None where it is not ours.

    Raises:
        OSError: The file cannot be read.
    """
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
        found = _PATTERN.search(head)
        if found is None:
            return None
        content = head + stream.read()
    if content.startswith(_PNG):
        rest = _CHUNK.sub(b"", content, count=1)
    else:
        rest = _PATTERN.sub(UNSIGNED.encode(), content, count=1)
    mark, digest = found.groups()
    whole = hashlib.sha256(rest).hexdigest().encode() == digest
    return mark.decode() if whole else None


def source_mark(source: str) -> str:
    """What stands in a signature for what the file tells about."""
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _signature(content: bytes, source: str) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return f"attnchain of:{source_mark(source)} sha256:{digest}".encode()
