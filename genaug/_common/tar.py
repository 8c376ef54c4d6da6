"""Files in a tar without owner and time. They are appended one after the other and read by offset."""

from __future__ import annotations

import tarfile

BLOCK = tarfile.BLOCKSIZE  # bytes per block of a tar
_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_SUM = sum(_HEADER[100:124]) + sum(_HEADER[136:148]) + 8 * ord(" ") + sum(_HEADER[156:])  # without name and size


def member(name: str, content: bytes) -> bytes:
    """Return the bytes of a file in a tar: its header, and its content padded to whole blocks.

    The header equals that of `tarfile.TarInfo.tobuf`, which takes eight times as long: 5% of the time to render digits.
    """
    name_field, size_field = name.encode().ljust(100, b"\0"), b"%011o\0" % len(content)
    checksum = _SUM + sum(name_field) + sum(size_field)
    header = name_field + _HEADER[100:124] + size_field + _HEADER[136:148] + b"%06o\0 " % checksum + _HEADER[156:]
    return header + content + bytes(-len(content) % BLOCK)


def member_size(size: int) -> int:
    """Return the number of bytes that a file of this size takes in a tar."""
    return BLOCK + -(-size // BLOCK) * BLOCK
