"""A strict fake of ``hrt_model_exec``: its flags, what it prints, what it writes. Times are made up, logits are not.

What it says of a missing file, and its exit status when it fails, is inferred.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from . import artifact, hrt_prints, network
from .world import World, head, other_chip, world

_WORDS = {
    "model_file", "model_name", "core_id", "input_file", "frame_count", "perf_time", "thread_num", "profile_path",
    "dump_format", "dump_intermediate", "dump_precision", "dump_txt_axis", "roi",
}  # fmt: skip
_SWITCHES = {"enable_dump", "hybrid_dequantize_process", "enable_cls_post_process", "roi_infer"}
_ONLY_H = {"input_img_properties", "input_valid_shape", "input_stride"}


class Failed(Exception):
    """The lines that the tool ends with."""


def flags(argv: list[str], march: str) -> dict[str, str]:
    """Return the flags, ``--x v`` or ``--x=v``: the last of a repeated one wins, bare words are not looked at."""
    words = _WORDS | (_ONLY_H if march.startswith("nash") else set())
    found: dict[str, str] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name in _SWITCHES:
            found[name] = value if equals else "true"
        elif name not in words:
            raise Failed(f"ERROR: unknown command line flag '{name}'")
        elif equals:
            found[name] = value
        elif rest:
            found[name] = rest.pop(0)
        else:
            raise Failed(f"ERROR: flag '--{name}' is missing its argument")
    return found


def main(argv: list[str]) -> int:
    """Run one subcommand; return the exit status."""
    board = world()
    if argv and argv[0] in ("-v", "--version"):
        print(head(board.march)[2])
        return 0
    try:
        if not argv or argv[0] not in ("model_info", "perf", "infer"):
            raise Failed("ERROR: subcommand must be one of model_info, perf, infer")
        given = flags(argv[1:], board.march)
        print("\n".join(head(board.march)), flush=True)
        held = load(given, board)
        {"model_info": info, "perf": perf, "infer": infer}[argv[0]](held, given, board)
    except Failed as failed:
        print(failed, flush=True)
        return 1
    return 0


def load(given: dict[str, str], board: World) -> artifact.Artifact:
    """Return the model; H looks at the chip here, B only when it infers."""
    path = given.get("model_file", "")
    try:
        held = artifact.read(path)
    except (OSError, artifact.Broken) as error:
        raise Failed(f"[E][DNN] open model file {path} failed: {error}\nload model failed") from error
    if held.kind != artifact.FAMILY[board.march]:
        raise Failed("[E][DNN] invalid model file\nload model failed")
    if held.kind == "hbm" and held.march != board.march:
        raise Failed("\n".join(other_chip(board.march)))
    if given.get("model_name", held.name) not in ("", held.name):
        raise Failed(f"[E] model {given['model_name']} is not found, failed")
    print("Load model to DDR cost 137.022ms.", flush=True)
    return held


def info(held: artifact.Artifact, given: dict[str, str], board: World) -> None:
    """Print the tensors."""
    print(hrt_prints.model_info(held), end="")
    if board.fail == "new":
        print("something new: 1")


def fit(held: artifact.Artifact, board: World) -> None:
    """Fail as the BPU does."""
    if board.fail == "hang":
        time.sleep(3600)
    if held.march != board.march:
        raise Failed("\n".join(other_chip(board.march)))
    if board.fail == "infer":
        raise Failed("[E][DNN] task failed, error code: -100001\nhbDNNWaitTaskDone failed")


def number(given: dict[str, str], name: str, default: int) -> int:
    """Return a whole number that is not negative."""
    text = given.get(name, str(default))
    if not text.isdigit():
        raise Failed(f"ERROR: illegal value '{text}' specified for int32 flag '{name}'")
    return int(text)


def perf(held: artifact.Artifact, given: dict[str, str], board: World) -> None:
    """Print, and with a profile_path write, what the made-up latency comes to."""
    frames, asked = number(given, "frame_count", 200), number(given, "thread_num", 1)
    if frames < 1 or asked < 1 or number(given, "perf_time", 0):
        raise Failed("ERROR: frame_count and thread_num start at 1; the fake does not run for minutes")
    fit(held, board)
    streams = min(asked, 8)
    run = hrt_prints.Run(held, frames, streams, board.latency_ms)
    text = hrt_prints.perf(run, board.march)
    print(
        text.replace("Frame      rate       is: ", "Frame      rate       is: 9")
        if board.fail == "contradict"
        else text
    )
    if given.get("profile_path"):
        folder = Path(given["profile_path"])
        if not folder.is_dir():
            raise Failed(f"[E] open {folder}/profiler.log failed")
        (folder / "profiler.log").write_text(hrt_prints.profile(run))
        (folder / "profiler.csv").write_text("")


def infer(held: artifact.Artifact, given: dict[str, str], board: World) -> None:
    """Run one frame of the files given, and dump the output into the current folder."""
    names = given.get("input_file", "").split(",")
    expected = sizes(held)
    if len(names) != len(expected) or given.get("dump_format", "bin") != "bin":
        raise Failed(f"[E] the model has {len(expected)} inputs, {len(names)} files are given, failed")
    arrays = [contents(name, want) for name, want in zip(names, expected, strict=True)]
    fit(held, board)
    if held.kind == "hbm" and held.input_type == "nv12":
        n, h, w = held.batch, held.height, held.width
        pictures = network.rgb(arrays[0].reshape(n, h, w, 1), arrays[1].reshape(n, h // 2, w // 2, 2))
    else:
        pictures = network.of_packed(held, arrays[0])
    values = network.run(held, pictures, board)
    print(f"\n---------------------Frame 0 begin---------------------\nInfer time: {board.latency_ms:.3f} ms")
    print("---------------------Frame 0 end---------------------")
    if given.get("enable_dump") == "true":
        for i, array in enumerate(arrays):
            Path(f"model_infer_input_{i}_{hrt_prints.input_names(held)[i]}.bin").write_bytes(array.tobytes())
        padded = values.tobytes().ljust(hrt_prints.aligned(held), b"\0") if held.kind == "hbm" else values.tobytes()
        Path("model_infer_output_0_logits.bin").write_bytes(padded)


def sizes(held: artifact.Artifact) -> list[int]:
    """Return the bytes of each input."""
    if held.kind == "hbm" and held.input_type == "nv12":
        pixels = held.batch * held.height * held.width
        return [pixels, pixels // 2]
    return [network.size(held)]


def contents(name: str, want: int) -> Any:
    """Return a file's bytes."""
    import numpy as np

    if not name.endswith(".bin") or not os.path.isfile(name):  # noqa: PTH113
        raise Failed(f"[E] input file {name} is not supported or does not exist, failed")
    data = np.fromfile(name, np.uint8)
    if data.size != want:
        raise Failed(f"[E] input file {name} has {data.size} bytes, {want} are needed, failed")
    return data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
