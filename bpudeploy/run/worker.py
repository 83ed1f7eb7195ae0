"""The process of one step of a farm: takes a job from its parent, says what happens, and ends when the parent does."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from bpudeploy.errors import BpudeployError
from bpudeploy.run.farm import Job
from bpudeploy.run.runner import bring


def main() -> None:
    """Run the job that comes on the first file descriptor that is named; answer on the second.

    The job is pickled by the parent, which is this program, over a pipe that nobody else has.
    """
    given, answers = Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False)
    try:
        job, root = pickle.loads(given.recv_bytes())  # noqa: S301
        assert isinstance(job, Job) and isinstance(root, Path)
        threading.Thread(target=_end_with_parent, args=(given,), daemon=True).start()
        answers.send(bring(job.recipe, job.step, job.inputs, root, answers.send, forced=job.forced))
    except BpudeployError as error:
        answers.send(error)
    except (KeyboardInterrupt, EOFError):
        os._exit(130)


def _end_with_parent(given: Connection) -> None:
    given.poll(None)  # nothing more is ever sent: this returns when the parent is gone
    os.kill(os.getpid(), signal.SIGINT)
