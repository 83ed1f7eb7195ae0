"""The process of one step: receives a request from its parent, sends events, and ends with the parent."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from bpudeploy.errors import BpudeployError, StageError
from bpudeploy.events import Event
from bpudeploy.run.process import StepRequest, version_differences
from bpudeploy.run.runner import StepResult, ensure_step
from bpudeploy.store.locks import store_in_use
from bpudeploy.store.objects import default_root
from bpudeploy.store.shared import open_shared


def main() -> None:
    """Run the request that arrives on the first file descriptor of the command line; answer on the second.

    The request is a pickle from this program, over a pipe that only the parent has.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent that ignores it passes that on to its children
    requests, answers = Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False)
    try:
        request = pickle.loads(requests.recv_bytes())  # noqa: S301
        assert isinstance(request, StepRequest)
        threading.Thread(target=_end_with_parent, args=(requests,), daemon=True).start()
        answers.send(_run(request, answers.send))
    except BpudeployError as error:
        answers.send(error)
    except (KeyboardInterrupt, EOFError):
        os._exit(130)


def _run(request: StepRequest, emit: Callable[[Event], None]) -> StepResult:
    """Run the step, unless this machine's store has it.

    Raises:
        BpudeployError: from the stage or a store; StageError if the tools here would give another key.
    """
    job, root = request.job, request.root or default_root()
    here = dict(job.step.key_parts(tuple(a.digest for a in job.inputs))["tools"])
    here |= job.step.stage.look_up() if job.step.stage.look_up is not None else {}
    if differ := version_differences(request.tools, here):
        raise StageError(
            f"{job.label}: a worker ({os.uname().nodename}) has other tools than the planner: {differ}",
            hint="the key would differ: install the same versions on every worker",
        )
    shared = open_shared(request.shared) if request.shared is not None else None
    with store_in_use(root):
        return ensure_step(job.recipe, job.step, job.inputs, root, emit, forced=job.forced, shared=shared)


def _end_with_parent(requests: Connection) -> None:
    requests.poll(None)  # nothing more is sent: this returns when the parent has ended
    os.kill(os.getpid(), signal.SIGINT)
