"""Transfer to a board without Python: sh, dd, cat, sha256sum and, if worthwhile, gzip. Complete or resumed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator

from bpudeploy.boards.ssh import CHUNK
from bpudeploy.transfer.channel import Channel, RemoteState
from bpudeploy.transfer.compress import LEVEL, sample_ratio
from bpudeploy.transfer.receiver import SPAN

_MAX_GZIP_RATIO = 0.7
"""Compression ratio of a sample below which gzip is used; lower than ``MAX_RATIO`` because it applies to all bytes."""
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


def look(channel: Channel) -> RemoteState:
    """Return the board's state of the remote file.

    Raises:
        BoardError: the account has no usable shell, or no sha256sum.
    """
    reply = channel.run(["sh", "-c", _LOOK, "sh", str(channel.remote), str(SPAN)])
    output = reply.stdout.decode(errors="replace")
    size = re.search(r"^size (-?\d+)$", output, re.MULTILINE)
    spans = tuple(bytes.fromhex(digest) for digest in _DIGEST.findall(output))
    if not reply.ok or not size or len(spans) != -(-max(int(size[1]), 0) // SPAN):
        text = (reply.stderr.strip() or output.strip())[-500:] or f"exit status {reply.status}"
        message = f"cannot read {channel.remote}: {text}"
        raise channel.error(message, "the account needs a POSIX shell and sha256sum (coreutils or busybox)")
    return RemoteState(int(size[1]), spans)


def receive(channel: Channel, data: memoryview, kept: int, progress: Callable[[int, int], None]) -> bytes:
    """Have the board keep the first ``kept`` bytes and append the rest; return the sha256 of the result."""
    compress = sample_ratio(data[kept:])[0] < _MAX_GZIP_RATIO and channel.run(["sh", "-c", "command -v gzip"]).ok
    plain = _pieces(data, kept, progress)
    pieces, filter_ = (_gzipped(plain), "gzip -dc") if compress else (plain, "cat")
    reply = channel.run(["sh", "-c", _RECEIVE, "sh", str(channel.remote), str(kept), filter_], pieces)
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
