"""The worker: runs the host's commands one after another, in a process that may be killed at any time."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from typing import Any, BinaryIO, Callable, Dict, Optional, Tuple

from . import protocol
from .board_files import boot_id, find
from .conditions import Conditions, facts
from .drivers.base import Refused, Session
from .governors import Governors, restore_leftover
from .processes import die_with_parent
from .rounds import Send, classify, run_round
from .samples import frame, read_pixels


class Worker:
    """The loaded network and the governors. A command's method returns the fields of its ``done`` line."""

    def __init__(self, root: str, under: str, supervisor: int, send: Send) -> None:
        self._root = root
        self._under = under
        self._send = send
        self._conditions = Conditions(under, supervisor)
        self._governors = Governors(root, under)
        self._session: Optional[Session] = None
        self._pixels: Any = None

    def hello(self) -> None:
        """Send the first line: facts about the board, and the governors restored after a previous agent."""
        healed = restore_leftover(self._root, self._under)
        _remove_stale_folders(self._root)
        self._send(
            "hello",
            agent=2,
            boot=boot_id(self._under),
            uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            t=time.monotonic(),
            facts=facts(self._under),
            healed=healed,
        )

    def run(self, line: bytes) -> bool:
        """Run one command and send its closing line; return whether it was ``bye``."""
        verb = None
        try:
            command = json.loads(line)
            verb = command["do"]
            if verb not in COMMANDS:
                raise Refused(f"unknown command {verb!r}; expected {', '.join(COMMANDS)}", protocol.VERSION_MISMATCH)
            kind, method = COMMANDS[verb]
            self._send("done", **method(self, protocol.parse(kind, command)))
            return bool(verb == "bye")
        except Refused as refused:
            self._send("failed", why=str(refused), hint=refused.hint)
        except OSError as error:
            self._send("failed", why=f"{verb}: {error}", hint="check the space and permissions of the board")
        except Exception as error:  # runtimes raise undocumented exceptions; the agent continues
            traceback.print_exc()
            self._send("failed", why=f"{verb}: {type(error).__name__}: {error}", hint="see the traceback it printed")
        return False

    def conditions(self, command: Optional[protocol.NoFields] = None) -> Dict[str, Any]:
        self._send("conditions", **self._conditions.read())
        return {}

    def performance(self, command: protocol.NoFields) -> Dict[str, Any]:
        self._send("governors", **self._governors.perform())
        return {}

    def load(self, command: protocol.Load) -> Dict[str, Any]:
        from .drivers.choose import open_session

        self.unload()  # first: a board may not have memory for two networks
        if command.sha256 is not None and _sha256(command.model) != command.sha256:
            raise Refused(f"{command.model} is not the file that was sent", "push again")
        pixels = read_pixels(command.samples)
        started = time.monotonic()
        session = self._session = open_session(command.runtime, command.model, command.threads)
        self._pixels = pixels
        self._send(
            "loaded",
            seconds=time.monotonic() - started,
            batch=session.batch,
            driver=session.driver,
            runtime=session.runtime,
            frames_timed=session.times_frames,
            images=len(pixels),
            streams=session.parallel or session.has_tool,
        )
        return {}

    def round(self, command: protocol.Round) -> Dict[str, Any]:
        return run_round(self._loaded(), self._pixels, command, self.conditions, self._send)

    def classify(self, command: protocol.Classify) -> Dict[str, Any]:
        return classify(self._loaded(), self._pixels, command, self._send)

    def layers(self, command: protocol.Layers) -> Dict[str, Any]:
        session = self._loaded()
        firsts = (number * session.batch for number in range(command.frames))
        frames = [session.prepare(frame(self._pixels, first, session.batch)) for first in firsts]
        self._send("layers", layers=[vars(layer) for layer in session.layers(frames)])
        return {}

    def unload(self, command: Optional[protocol.NoFields] = None) -> Dict[str, Any]:
        session, self._session, self._pixels = self._session, None, None
        if session is not None:
            session.close()
        return {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}

    def bye(self, command: protocol.NoFields) -> Dict[str, Any]:
        self.unload()
        self._governors.restore()
        return {}

    def _loaded(self) -> Session:
        if self._session is None:
            raise Refused("no network is loaded", "load one first")
        return self._session


COMMANDS: Dict[str, Tuple[Any, Callable[[Worker, Any], Dict[str, Any]]]] = {
    "conditions": (protocol.NoFields, Worker.conditions),
    "performance": (protocol.NoFields, Worker.performance),
    "load": (protocol.Load, Worker.load),
    "round": (protocol.Round, Worker.round),
    "classify": (protocol.Classify, Worker.classify),
    "layers": (protocol.Layers, Worker.layers),
    "unload": (protocol.NoFields, Worker.unload),
    "bye": (protocol.NoFields, Worker.bye),
}


def _sha256(path: str) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def _remove_stale_folders(root: str) -> None:
    """Remove the temporary folders of agents whose supervisor was killed."""
    for folder in find(root, "/agent-*.tmp"):
        if not os.path.exists("/proc/" + folder.rpartition("/agent-")[2].split(".")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def _take_standard_streams() -> Tuple[BinaryIO, Send]:
    """Move the supervisor's pipes to other descriptors, and return them.

    Vendor libraries print to standard output, which becomes standard error; vendor tools may read standard input,
    which becomes /dev/null.
    """
    commands, send = os.fdopen(os.dup(0), "rb"), functools.partial(protocol.write_line, os.dup(1))
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.dup2(2, 1)
    return commands, send


def serve(root: str, under: str, supervisor: int) -> None:
    """Run commands until ``bye``, or until the supervisor ends, which also kills a worker that hangs in C code."""
    die_with_parent(supervisor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dump if a driver crashes
    commands, send = _take_standard_streams()
    worker = Worker(root, under, supervisor, send)
    worker.hello()
    for line in commands:
        if worker.run(line):
            break
    sys.stderr.flush()
    os._exit(0)  # runtimes may crash or hang during interpreter shutdown
