"""The worker: does what the host asks, one command after another, in a process that may be killed at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
from typing import Any, BinaryIO, Callable, Dict, Optional, Tuple

from . import asked
from .conditions import Conditions, facts
from .drivers.base import Refused, Session
from .governors import Governors, heal
from .lines import Speech
from .paths import boot, found
from .rounds import classify, run_round
from .samples import frame, read_pixels
from .tied import die_with_parent


class Worker:
    """What is loaded and set. A verb's function gets the command's fields and returns what its closing line says."""

    def __init__(self, root: str, under: str, supervisor: int, say: Speech) -> None:
        self.root = root
        self.under = under
        self.say = say
        self.meter = Conditions(under, supervisor)
        self.governors = Governors(root, under)
        self.session: Optional[Session] = None
        self.pixels: Any = None

    def hello(self) -> None:
        """Speak first: who and where, and what an agent before us had left set."""
        healed = heal(self.root, self.under)
        _sweep(self.root)
        now = time.monotonic()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        about = {"boot": boot(self.under), "uptime_s": uptime, "t": now, "facts": facts(self.under), "healed": healed}
        self.say("hello", agent=2, **about)

    def obey(self, line: bytes) -> bool:
        """Do one command and close it; tell whether it was the last."""
        verb = None
        try:
            command = json.loads(line)
            verb = command["do"]
            if verb not in VERBS:
                raise Refused(f"no verb {verb!r}; there are {', '.join(VERBS)}", asked.OTHER_VERSION)
            kind, do = VERBS[verb]
            self.say("done", **do(self, asked.parse(kind, command)))
            return bool(verb == "bye")
        except Refused as refused:
            self.say("failed", why=str(refused), hint=refused.hint)
        except OSError as error:
            self.say("failed", why=f"{verb}: {error}", hint="check the space and permissions of the board")
        except Exception as error:  # of a runtime, whose exceptions nobody lists: the agent lives on
            traceback.print_exc()
            self.say("failed", why=f"{verb}: {type(error).__name__}: {error}", hint="what it printed says where")
        return False

    def loaded(self) -> Session:
        if self.session is None:
            raise Refused("no network is loaded", "load one first")
        return self.session

    def conditions(self) -> None:
        self.say("conditions", **self.meter.read())

    def unload(self) -> None:
        session, self.session, self.pixels = self.session, None, None
        if session is not None:
            session.close()


def _conditions(worker: Worker, command: asked.Nothing) -> Dict[str, Any]:
    worker.conditions()
    return {}


def _performance(worker: Worker, command: asked.Nothing) -> Dict[str, Any]:
    worker.say("governors", **worker.governors.perform())
    return {}


def _load(worker: Worker, command: asked.Load) -> Dict[str, Any]:
    from .drivers.choose import open_session

    worker.unload()  # first: a board may not hold two networks
    if command.sha256 is not None and _sha256(command.model) != command.sha256:
        raise Refused(f"{command.model} is not the file that was sent", "push again")
    pixels = read_pixels(command.samples)
    started = time.monotonic()
    session = worker.session = open_session(command.runtime, command.model, command.threads)
    worker.pixels = pixels
    worker.say(
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


def _round(worker: Worker, command: asked.Round) -> Dict[str, Any]:
    return run_round(worker.loaded(), worker.pixels, command, worker.conditions, worker.say)


def _classify(worker: Worker, command: asked.Classify) -> Dict[str, Any]:
    return classify(worker.loaded(), worker.pixels, command, worker.say)


def _layers(worker: Worker, command: asked.Layers) -> Dict[str, Any]:
    session = worker.loaded()
    firsts = (number * session.batch for number in range(command.frames))
    frames = [session.prepare(frame(worker.pixels, first, session.batch)) for first in firsts]
    worker.say("layers", layers=[vars(layer) for layer in session.layers(frames)])
    return {}


def _unload(worker: Worker, command: asked.Nothing) -> Dict[str, Any]:
    worker.unload()
    return {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def _bye(worker: Worker, command: asked.Nothing) -> Dict[str, Any]:
    worker.unload()
    worker.governors.restore()
    return {}


VERBS: Dict[str, Tuple[Any, Callable[[Worker, Any], Dict[str, Any]]]] = {
    "conditions": (asked.Nothing, _conditions),
    "performance": (asked.Nothing, _performance),
    "load": (asked.Load, _load),
    "round": (asked.Round, _round),
    "classify": (asked.Classify, _classify),
    "layers": (asked.Layers, _layers),
    "unload": (asked.Nothing, _unload),
    "bye": (asked.Nothing, _bye),
}


def _sha256(path: str) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def _sweep(root: str) -> None:
    """Remove the temporary folders of agents that were killed with their supervisor."""
    for folder in found(root, "/agent-*.tmp"):
        if not os.path.exists("/proc/" + folder.rpartition("/agent-")[2].split(".")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def _private() -> Tuple[BinaryIO, Speech]:
    """Return the supervisor's two pipes under numbers of our own.

    Vendors' libraries print to standard output: that becomes standard error. Their tools may read standard input.
    """
    commands, speech = os.fdopen(os.dup(0), "rb"), Speech(os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return commands, speech


def work(root: str, under: str, supervisor: int) -> None:
    """Serve until the last command, or until the supervisor is gone: even a worker that hangs in C dies with it."""
    die_with_parent(supervisor)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a driver that crashes leaves no file behind
    commands, say = _private()
    worker = Worker(root, under, supervisor, say)
    worker.hello()
    for line in commands:
        if worker.obey(line):
            break
    sys.stderr.flush()
    os._exit(0)  # runtimes may crash or hang while an interpreter ends
