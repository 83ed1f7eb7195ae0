"""A TCP proxy that delays, counts, cuts, stalls or flips: what stands between us and a real sshd.

Run as ``python -m benchmarks.proxy PORT ONE_WAY_DELAY_MS BYTES_PER_SECOND`` (0: no limit) it prints its own
port, serves until standard input closes, and answers each line there with ``BYTES_UP BYTES_DOWN`` since the
line before.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import sys
import threading
import time
from dataclasses import dataclass

_PIECE = 1 << 18
_IN_FLIGHT = 1024  # pieces on their way in each direction: more than any window in use


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes that go up to the server, counted over one connection; None is never."""

    cut_after: int | None = None
    """Both sides are reset when this many bytes have gone up."""
    stall_after: int | None = None
    """Nothing more goes up after this many bytes; the connection stays."""
    flip_at: int | None = None
    """One bit of this byte is flipped."""


class Proxy:
    """Listens on a free port of loopback while it is entered.

    ``fault`` holds for connections to come; ``up`` and ``down`` count bytes, and may be set back.
    ``rate`` is in bytes per second each way, 0 for none.
    """

    def __init__(self, port: int, *, delay_s: float = 0.0, rate: float = 0.0, fault: Fault | None = None) -> None:
        self.up = self.down = 0
        self.fault = fault or Fault()
        self._target, self._delay, self._rate = port, delay_s, rate
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [client, server]
                self._join(client, server, upward=True)
                self._join(server, client, upward=False)

    def _join(self, source: socket.socket, target: socket.socket, *, upward: bool) -> None:
        flying: queue.Queue[tuple[float, bytes]] = queue.Queue(1 if self._rate else _IN_FLIGHT)
        threading.Thread(target=self._read, args=(source, flying, upward), daemon=True).start()
        threading.Thread(target=self._write, args=(target, flying), daemon=True).start()

    def _read(self, source: socket.socket, flying: queue.Queue[tuple[float, bytes]], upward: bool) -> None:
        seen = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                if upward:
                    data = self._spoil(data, seen)
                    self.up += len(data)
                else:
                    self.down += len(data)
                seen += len(data)
                flying.put((time.monotonic() + self._delay, data))
        flying.put((0.0, b""))

    def _spoil(self, data: bytes, seen: int) -> bytes:
        fault, end = self.fault, seen + len(data)
        if fault.flip_at is not None and seen <= fault.flip_at < end:
            at = fault.flip_at - seen
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if fault.cut_after is not None and end >= fault.cut_after:
            self.cut()
            raise ConnectionResetError
        if fault.stall_after is not None and end >= fault.stall_after:
            time.sleep(3600)
        return data

    def _write(self, target: socket.socket, flying: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = flying.get()
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                if (wait := due - time.monotonic()) > 0:
                    time.sleep(wait)
                if self._rate:
                    time.sleep(len(data) / self._rate)
                target.sendall(data)


def main() -> None:
    """See the module."""
    port, delay_ms, rate = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    with Proxy(port, delay_s=delay_ms / 1000, rate=rate) as proxy:
        print(proxy.port, flush=True)
        for _ in sys.stdin:
            print(proxy.up, proxy.down, flush=True)
            proxy.up = proxy.down = 0


if __name__ == "__main__":
    main()
