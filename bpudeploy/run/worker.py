"""The process of one step: takes an order from its parent, says what happens, and ends when the parent does."""

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
from bpudeploy.run.process import Order
from bpudeploy.run.runner import StepResult, bring
from bpudeploy.store.locks import store_in_use
from bpudeploy.store.objects import default_root
from bpudeploy.store.shared import open_shared


def main() -> None:
    """Carry out the order that comes on the first file descriptor that is named; answer on the second.

    The order is pickled by who plans, which is this program, and comes over a pipe that only our parent has.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent that ignores it hands that down
    given, answers = Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False)
    try:
        order = pickle.loads(given.recv_bytes())  # noqa: S301
        assert isinstance(order, Order)
        threading.Thread(target=_end_with_parent, args=(given,), daemon=True).start()
        answers.send(_carry_out(order, answers.send))
    except BpudeployError as error:
        answers.send(error)
    except (KeyboardInterrupt, EOFError):
        os._exit(130)


def _carry_out(order: Order, emit: Callable[[Event], None]) -> StepResult:
    """Bring the step into the store of this machine.

    Raises:
        BpudeployError: from the stage or a store; StageError where the tools here would make another key.
    """
    job, root = order.job, order.root or default_root()
    here = dict(job.step.key_parts(tuple(a.digest for a in job.inputs))["tools"])
    here |= job.step.stage.look_up() if job.step.stage.look_up is not None else {}
    if here != order.tools:
        differ = [
            f"{name} {order.tools.get(name, 'missing')} there, {here.get(name, 'missing')} here"
            for name in sorted({*here, *order.tools})
            if here.get(name) != order.tools.get(name)
        ]
        raise StageError(
            f"{job.step.name} of {job.recipe}: a worker ({os.uname().nodename}) has other tools than the one who "
            f"plans: {'; '.join(differ)}",
            hint="the key would be another: install the same versions on every worker",
        )
    shared = open_shared(order.shared) if order.shared is not None else None
    with store_in_use(root):
        return bring(job.recipe, job.step, job.inputs, root, emit, forced=job.forced, shared=shared)


def _end_with_parent(given: Connection) -> None:
    given.poll(None)  # nothing more is ever sent: this returns when the parent is gone
    os.kill(os.getpid(), signal.SIGINT)
