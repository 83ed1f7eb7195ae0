"""Run what hb_mapper's binary computes: its integer model on every image, and hbdk-sim on the binary for a few."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.agent.drivers import nv12
from bpudeploy.backends.base import SCORES_STEP, SimulationInputs
from bpudeploy.backends.horizon import network as files
from bpudeploy.backends.horizon.inside import BUILD, PYTHON, SCORE, TENSORS, copy_script
from bpudeploy.backends.horizon.process import run_checked
from bpudeploy.backends.horizon.tool import Tool
from bpudeploy.backends.samples import spread
from bpudeploy.errors import StageError
from bpudeploy.events import Note, Progress
from bpudeploy.spec.compile_options import HbMapperOptions, InputType
from bpudeploy.stage import StepContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MODEL = "integers.onnx"
SIMULATED = 8
"""Images whose integers hbdk-sim computes from the binary."""


def simulate(tool: Tool, work: StepContext, inputs: SimulationInputs, options: HbMapperOptions) -> NDArray[np.float32]:
    """Return the logits of the tool's integer model, float32 (N, classes).

    Raises:
        StageError: a program fails, or hbdk-sim's integers of an image are not those of the integer model.
    """
    folder, limit_s, started = work.dir, 60.0 * options.minutes, time.monotonic()
    shutil.copyfile(inputs.simulator.path, folder / _MODEL)
    shutil.copyfile(inputs.binary.path, folder / "model.bin")
    logits = _score(tool, work, folder, inputs.pixels, options, limit_s)
    left_s = limit_s - (time.monotonic() - started)
    work.emit(Note(SCORES_STEP, _compare(tool, work, inputs.pixels, options.input_type_rt, left_s)))
    return logits


def integers(
    tool: Tool, work: StepContext, folder: Path, pixels: NDArray[np.uint8], options: HbMapperOptions
) -> NDArray[np.float32]:
    """Return the logits of the integer model that the tool makes of a prepared ``folder``, without compiling.

    Raises:
        StageError: a program fails.
    """
    limit_s, started = 60.0 * options.minutes, time.monotonic()
    copy_script(BUILD, folder)
    arguments = (BUILD, "--integers", "makertbin", "--model-type", "onnx", "--config", files.CONFIG)
    _call(tool, PYTHON, arguments, folder, limit_s)
    (folder / files.OUT / f"{files.PREFIX}_quantized_model.onnx").rename(folder / _MODEL)
    return _score(tool, work, folder, pixels, options, limit_s - (time.monotonic() - started))


def tensors(
    tool: Tool, work: StepContext, simulator: Path, pixels: NDArray[np.uint8], options: HbMapperOptions
) -> Iterator[dict[str, NDArray[np.integer]]]:
    """Yield the integers of every tensor of the tool's integer model, for one image after another.

    Raises:
        StageError: the program fails.
    """
    import numpy as np

    folder = work.dir
    copy_script(TENSORS, folder)
    shutil.copyfile(simulator, folder / _MODEL)
    np.save(folder / "images.npy", _as_the_board_gets_them(pixels, options.input_type_rt))
    arguments = (TENSORS, _MODEL, "images.npy", ".")
    _call(tool, PYTHON, arguments, folder, 60.0 * options.minutes, _progress(work, len(pixels)))
    for i in range(len(pixels)):  # one at a time: those of a ViT-S are 100 MB
        with np.load(folder / f"{i}.npz") as found:
            yield dict(found)


def _score(
    tool: Tool, work: StepContext, folder: Path, pixels: NDArray[np.uint8], options: HbMapperOptions, limit_s: float
) -> NDArray[np.float32]:
    """Run the integer model in ``folder`` on every image."""
    import numpy as np

    copy_script(SCORE, folder)
    np.save(folder / "images.npy", _as_the_board_gets_them(pixels, options.input_type_rt))
    arguments = (SCORE, _MODEL, "images.npy", "logits.npy", str(os.cpu_count() or 1))
    _call(tool, PYTHON, arguments, folder, limit_s, _progress(work, len(pixels)))
    logits: NDArray[np.float32] = np.load(folder / "logits.npy").astype(np.float32)
    return logits


def _progress(work: StepContext, total: int) -> Callable[[str], None]:
    """Return what turns the lines of our programs into events."""

    def on_line(line: str) -> None:
        if line.startswith("DONE "):
            work.emit(Progress(SCORES_STEP, int(line.removeprefix("DONE ")), total, "images"))

    return on_line


def _as_the_board_gets_them(pixels: NDArray[np.uint8], kind: InputType) -> NDArray[np.int8]:
    """Return int8 (N, H, W, 3): RGB, or NV12's colours with U and V for each pixel; minus 128."""
    import numpy as np

    if kind is InputType.NV12:
        y, uv = nv12.planes(pixels)
        pixels = np.concatenate([y, uv.repeat(2, axis=1).repeat(2, axis=2)], axis=3)
    return (pixels.astype(np.int16) - 128).astype(np.int8)


def _compare(tool: Tool, work: StepContext, pixels: NDArray[np.uint8], kind: InputType, limit_s: float) -> str:
    """Run hbdk-sim on a few images, and return what was compared."""
    import numpy as np

    folder = work.dir
    _call(tool, "hb_extract_hbm", ("model.bin",), folder, limit_s)
    _call(tool, "hbdk-disas", ("--json", "-o", "disassembled.json", "model.hbm"), folder, limit_s)
    parts = json.loads((folder / "disassembled.json").read_text(encoding="utf-8"))
    file = folder / "logits.integers.npy"
    if len(parts) != 1 or not file.is_file():
        why = f"{len(parts)} BPU subgraphs" if len(parts) != 1 else "an end on the CPU"
        return f"hbdk-sim was not run: the binary has {why}"
    if kind is not InputType.NV12:
        return "hbdk-sim was not run: it takes images as NV12 only"
    integers = np.load(file)
    chosen = spread(len(pixels), SIMULATED)
    for done, i in enumerate(chosen):
        work.emit(Progress(SCORES_STEP, done, len(chosen), "images by hbdk-sim"))
        found = _simulated(tool, folder, parts[0], pixels[i : i + 1], limit_s)
        if not np.array_equal(found, integers[i]):
            raise StageError(
                f"hbdk-sim computes other integers from the binary than the tool's integer model, on image {i}",
                hint="the binary does not compute what was scored: report this to the vendor, with the recipe",
            )
    return f"hbdk-sim on the binary: the same integers as the tool's integer model on {len(chosen)} images"


def _simulated(
    tool: Tool, folder: Path, part: dict[str, Any], pixels: NDArray[np.uint8], limit_s: float
) -> NDArray[np.int64]:
    """Return the integers that the binary's only part computes for one image, uint8 RGB (1, H, W, 3), flat."""
    import numpy as np

    out = folder / "simulated"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    height, width = pixels.shape[1:3]
    name, stride = part["model name"], int(part["input features"][0]["pyramid stride"])
    rows = nv12.packed(pixels).reshape(-1, width)
    np.pad(rows, ((0, 0), (0, stride - width))).tofile(folder / "image.yuv")
    size = ("--yuv-size", f"{height}x{width}", "--yuv-stride", str(stride))
    _call(
        tool, "hbdk-sim", ("-f", "model.hbm", "-n", name, "-i", "image.yuv", *size, "-o", "simulated"), folder, limit_s
    )
    (file,) = out.glob("*elem_int.txt")
    lines = file.read_text(encoding="utf-8").splitlines()
    return np.array([int(x) for line in lines if not line.startswith("#") for x in line.split()], np.int64)


def _call(
    tool: Tool,
    program: str,
    arguments: tuple[str, ...],
    folder: Path,
    limit_s: float,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Run one of the tool's programs.

    Raises:
        StageError: it fails; the message has its last lines.
    """
    what = " ".join([program, *arguments[:1]])
    command = tool.command(program, arguments, folder)
    hint = "report this with the recipe; `compile.hb_mapper.minutes` is the time limit"
    run_checked(command, folder, limit_s, what, hint, on_line)
