"""The script that runs on the board, as ``python -c``: one file, Python 3.8 and its standard library.

    look REMOTE LIMIT BASE...      print digests of REMOTE and of the blocks of the bases, up to LIMIT bytes in total
    receive REMOTE KEEP BASE...    keep KEEP bytes of REMOTE, append as ordered on standard input, print the sha256

Numbers are little-endian. It exits when standard input closes; received bytes are kept.
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
"""Bytes of REMOTE per digest: a transfer resumes after the last complete correct span."""
BLOCK = 4096
"""Bytes of a base per block digest: adler32, then six bytes of sha256."""
COUNT = struct.Struct("<q")
DIGEST = struct.Struct("<I6s")
ORDER = struct.Struct("<BBQQ")
END, RAW, DEFLATED, COPY = range(4)
"""Orders: (END, 0, 0, 0), (RAW, 0, 0, length) + bytes, (DEFLATED, 0, 0, length) + zlib, (COPY, base, at, length)."""


def block_digest(block: bytes | memoryview) -> bytes:
    """Return a short digest, because the sha256 of the complete file is verified at the end."""
    return DIGEST.pack(zlib.adler32(block), hashlib.sha256(block).digest()[:6])


def write(*parts: bytes) -> None:
    sys.stdout.buffer.write(b"".join(parts))


def look(remote: str, limit: int, bases: list[str]) -> None:
    """Print the size of REMOTE (-1: it does not exist) and the sha256 of its spans, then block digests of each base."""
    write(MAGIC)
    try:
        with open(remote, "rb") as stream:
            write(COUNT.pack(os.fstat(stream.fileno()).st_size))
            for span in iter(lambda: stream.read(SPAN), b""):
                write(hashlib.sha256(span).digest())
    except FileNotFoundError:
        write(COUNT.pack(-1))
    for base in bases:
        digests = []
        try:
            with open(base, "rb") as stream:
                while limit >= BLOCK:
                    block = stream.read(BLOCK)
                    if len(block) < BLOCK:
                        break
                    digests.append(block_digest(block))
                    limit -= BLOCK
        except OSError:
            pass  # a missing base has no blocks
        write(COUNT.pack(len(digests)), *digests)


def receive(remote: str, keep: int, bases: list[str]) -> None:
    """Append to REMOTE as ordered. If nothing is kept, create a new file: hard links to the old one are unchanged."""
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
            for span in iter(lambda: written.read(SPAN), b""):  # hash the file's content, not what was written
                digest.update(span)
    write(MAGIC, digest.digest())


def ordered(sources: list[BinaryIO]) -> Iterator[bytes]:
    """Yield the bytes ordered on standard input, until END."""
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
            yield b""  # for a file to which nothing is appended
            return


def exactly(stream: BinaryIO, length: int) -> bytes:
    """Read that many bytes, or raise EOFError."""
    piece = stream.read(length)
    if len(piece) < length:
        raise EOFError(f"unexpected end of {stream.name}")
    return piece


def main() -> None:
    if sys.version_info < (3, 8):
        sys.exit("this is Python %d.%d" % sys.version_info[:2])
    verb, remote, number, *bases = sys.argv[1:]
    try:
        {"look": look, "receive": receive}[verb](remote, int(number), bases)
        sys.stdout.flush()
    except (OSError, EOFError, zlib.error) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
