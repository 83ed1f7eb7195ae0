"""Run the tool's integer model on images: ``score.py MODEL IMAGES.npy OUT.npy PROCESSES``.

``IMAGES``: int8 (N, H, W, 3), what the board's preprocessing unit gives, minus 128. ``OUT``: float32 (N, classes).
Beside it, ``OUT.integers.npy``: the integers before the last dequantization, (N, values), if the model ends with one.
"""

from __future__ import annotations

import multiprocessing
import queue
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

_END = "HzDequantize"


def outputs_of(model: Any) -> list[str]:
    """Return the output, and what its dequantization reads, which is made an output too."""
    (end,) = [value.name for value in model.graph.output]
    producers = {name: node for node in model.graph.node for name in node.output}
    while end in producers and producers[end].op_type == "Transpose":
        end = producers[end].input[0]
    if end in producers and producers[end].op_type == _END:
        value = model.graph.output.add()
        value.name = producers[end].input[0]
        value.type.tensor_type.elem_type = 6  # int32
    return [value.name for value in model.graph.output]


def work(model_file: str, images_file: str, chosen: list[int], results: Any) -> None:
    import onnx
    from horizon_nn.executor import ORTExecutor

    model = onnx.load(model_file)
    names = outputs_of(model)
    session = ORTExecutor(model).create_session()
    (image,) = session.get_inputs()
    images = np.load(images_file, mmap_mode="r")
    order = (0, 1, 2, 3) if list(image.shape[1:]) == list(images.shape[1:]) else (0, 3, 1, 2)  # NHWC, or NCHW
    for i in chosen:
        made = session.forward({image.name: np.ascontiguousarray(images[i : i + 1].transpose(order))}, names)
        results.put((i, [made[name].reshape(-1) for name in names]))


def run(model: str, images: str, processes: int) -> Iterator[tuple[int, list[Any]]]:
    count = len(np.load(images, mmap_mode="r"))
    processes = min(processes, count)
    results: Any = multiprocessing.Queue()
    started = [
        multiprocessing.Process(target=work, args=(model, images, list(range(n, count, processes)), results))
        for n in range(processes)
    ]
    for process in started:
        process.start()
    for _ in range(count):
        while True:
            try:
                yield results.get(timeout=5)
                break
            except queue.Empty:
                if any(process.exitcode not in (None, 0) for process in started):
                    sys.exit("a process ended with an error")


if __name__ == "__main__":
    rows: dict[int, list[Any]] = {}
    for number, row in run(sys.argv[1], sys.argv[2], int(sys.argv[4])):
        rows[number] = row
        sys.stdout.write(f"DONE {len(rows)}\n")
        sys.stdout.flush()
    for part, name in enumerate(["", ".integers"]):
        if len(rows[0]) > part:
            np.save(f"{sys.argv[3][:-4]}{name}.npy", np.stack([rows[i][part] for i in range(len(rows))]))
