"""A board without Python: sh, dd, cat, sha256sum and, where compression pays, gzip. Whole or resumed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

from bpudeploy.boards.ssh import CHUNK
from bpudeploy.transfer.channel import Channel, Held
from bpudeploy.transfer.compress import LEVEL, sampled
from bpudeploy.transfer.receiver import SPAN

_GZIP_BELOW = 0.7
"""The compressed share of a sample below which gzip is used: here it is all or nothing, so not for a little."""
_LOOK = r"""
size=-1
[ ! -e "$1" ] || size=$(wc -c < "$1") || exit 1
echo "size $size"
i=0
while [ $((i * $2)) -lt "$size" ]; do
    dd if="$1" bs="$2" skip="$i" count=1 2>/dev/null | sha256sum || exit 1
    i=$((i + 1))
done
"""
_RECEIVE = r"""
[ "$2" != 0 ] || rm -f -- "$1" || exit 1
dd if=/dev/null of="$1" bs=1 seek="$2" 2>/dev/null
$3 >> "$1" && sha256sum < "$1"
"""
_DIGEST = re.compile(r"^[0-9a-f]{64}\b", re.MULTILINE)


def look(channel: Channel) -> Held:
    """Return what the board has of the file.

    Raises:
        BoardError: the board runs no shell, or has no sha256sum.
    """
    reply = channel.say(["sh", "-c", _LOOK, "sh", str(channel.remote), str(SPAN)])
    said = reply.stdout.decode(errors="replace")
    size = re.search(r"^size (-?\d+)$", said, re.MULTILINE)
    spans = tuple(bytes.fromhex(digest) for digest in _DIGEST.findall(said))
    if not reply.ok or not size or len(spans) != -(-max(int(size[1]), 0) // SPAN):
        told = (reply.stderr.strip() or said.strip())[-500:]
        raise channel.error(
            f"its shell cannot say what {channel.remote} holds: {told or f'exit status {reply.status}'}",
            "this account needs a plain shell, and sha256sum (coreutils or busybox)",
        )
    return Held(int(size[1]), spans)


def receive(channel: Channel, data: memoryview, kept: int, progress: Callable[[int, int], None]) -> bytes:
    """Have the board keep the first ``kept`` bytes and add the rest; returns the sha256 of what is there then."""
    squeeze = sampled(data[kept:])[0] < _GZIP_BELOW and channel.say(["sh", "-c", "command -v gzip"]).ok
    plain = _pieces(data, kept, progress)
    pieces, filter_ = (_gzipped(plain), "gzip -dc") if squeeze else (plain, "cat")
    reply = channel.say(["sh", "-c", _RECEIVE, "sh", str(channel.remote), str(kept), filter_], pieces)
    digest = _DIGEST.search(reply.stdout.decode(errors="replace"))
    if not reply.ok or not digest:
        raise channel.failed(reply)
    return bytes.fromhex(digest[0])


def _pieces(data: memoryview, kept: int, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    for at in range(kept, len(data), CHUNK):
        piece = bytes(data[at : at + CHUNK])
        yield piece
        progress(at + len(piece), len(data))


def _gzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=31)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()
