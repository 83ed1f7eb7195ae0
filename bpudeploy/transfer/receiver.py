"""What runs on the board: one file, Python 3.8 and its standard library. Fed as ``python -c``; never imported there.

    look REMOTE LIMIT BASE...      what REMOTE holds already, and the blocks of the bases, LIMIT bytes in all
    receive REMOTE KEEP BASE...    keep that many bytes of REMOTE, add what standard input says, print its sha256

Numbers are little-endian. It ends when its standard input closes; what had arrived stays.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import zlib
from typing import BinaryIO, Iterator

MAGIC = b"bpudeploy transfer 1\n"
SPAN = 1 << 20
"""Bytes of REMOTE under one digest: a transfer goes on after the last whole one that is right."""
BLOCK = 4096
"""Bytes of a base under one record: adler32, then six bytes of sha256."""
COUNT = struct.Struct("<q")
RECORD = struct.Struct("<I6s")
ORDER = struct.Struct("<BBQQ")
END, RAW, DEFLATED, COPY = range(4)
"""Orders: (END, 0, 0, 0), (RAW, 0, 0, length) + bytes, (DEFLATED, 0, 0, length) + zlib, (COPY, base, at, length)."""


def record(block: bytes | memoryview) -> bytes:
    """Return what stands for a block: a short digest, because the whole file's sha256 decides in the end."""
    return RECORD.pack(zlib.adler32(block), hashlib.sha256(block).digest()[:6])


def say(*parts: bytes) -> None:
    sys.stdout.buffer.write(b"".join(parts))


def look(remote: str, limit: int, bases: list[str]) -> None:
    """Print REMOTE's size (-1: it does not exist) and its spans' sha256, then each base's count and records."""
    say(MAGIC)
    try:
        with open(remote, "rb") as stream:
            say(COUNT.pack(os.fstat(stream.fileno()).st_size))
            for span in iter(lambda: stream.read(SPAN), b""):
                say(hashlib.sha256(span).digest())
    except FileNotFoundError:
        say(COUNT.pack(-1))
    for base in bases:
        records = []
        try:
            with open(base, "rb") as stream:
                while limit >= BLOCK:
                    block = stream.read(BLOCK)
                    if len(block) < BLOCK:
                        break
                    records.append(record(block))
                    limit -= BLOCK
        except OSError:
            pass  # a base that is not there holds nothing
        say(COUNT.pack(len(records)), *records)


def receive(remote: str, keep: int, bases: list[str]) -> None:
    """Add to REMOTE as ordered. It is a new file when nothing is kept: no other name of the old one is written to."""
    sources: list[BinaryIO] = [open(base, "rb") for base in bases]
    if not keep and os.path.lexists(remote):
        os.unlink(remote)
    with open(remote, "r+b" if keep else "xb", buffering=0) as target, open(remote, "rb") as written:
        target.truncate(keep)
        target.seek(keep)
        digest = hashlib.sha256()
        for piece in ordered(sources):
            whole = memoryview(piece)
            while whole:
                whole = whole[target.write(whole) :]
            for span in iter(lambda: written.read(SPAN), b""):  # what the file holds, not what was meant to be written
                digest.update(span)
    say(MAGIC, digest.digest())


def ordered(sources: list[BinaryIO]) -> Iterator[bytes]:
    """Yield the bytes that standard input orders, until END."""
    orders = sys.stdin.buffer
    while True:
        kind, base, at, length = ORDER.unpack(exactly(orders, ORDER.size))
        if kind == COPY:
            sources[base].seek(at)
            while length:
                piece = exactly(sources[base], min(length, SPAN))
                yield piece
                length -= len(piece)
        elif kind == DEFLATED:
            yield zlib.decompress(exactly(orders, length))
        elif kind == RAW:
            yield exactly(orders, length)
        else:
            yield b""  # for a file to which nothing is added
            return


def exactly(stream: BinaryIO, length: int) -> bytes:
    """Read that many bytes, or raise EOFError."""
    piece = stream.read(length)
    if len(piece) < length:
        raise EOFError(f"{stream.name} ended too soon")
    return piece


def main() -> None:
    verb, remote, number, *bases = sys.argv[1:]
    try:
        {"look": look, "receive": receive}[verb](remote, int(number), bases)
        sys.stdout.flush()
    except (OSError, EOFError, zlib.error) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
