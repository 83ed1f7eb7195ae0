"""What the vendors' tools are known to fail with, and what repairs it. Texts: the vendors' FAQ and tool sources."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A line of a log, and what to change: ``{tool}`` stands for the backend's name."""

    line: re.Pattern[str]
    fix: str


def _known(pattern: str, fix: str) -> Failure:
    return Failure(re.compile(pattern), fix)


_REPORT = "bpudeploy should not have written that: report it with the log"
_VERSION = "the tool's version differs from the documented one: see docs/vendor-tools.md, and report it with the log"
_LEVEL = "set `compile.{tool}.optimize_level` to O2 or lower"
_INSPECT = "`bpudeploy inspect RECIPE` names the operator and what would help"

KNOWN: tuple[Failure, ...] = (
    _known(r"No space left on device", "make space where the store is, or name another --store"),
    _known(
        r"MemoryError|[Cc]annot allocate memory|std::bad_alloc", "raise `compile.{tool}.memory_gib`, or lower `jobs`"
    ),
    _known(r"[Oo]pset version .*\bis \d+.* (?:supported|maximum)|maximum supported version is", _REPORT),
    _known(r"IR version|ir_version", _REPORT),
    _known(r"There is no node can execute on BPU", "no convolution is left for the BPU: " + _INSPECT),
    _known(r"HorizonRT not support these cpu operators", "neither device has that operator: " + _INSPECT),
    _known(r"specified as domain:.*not supported by official onnx", "give a `model.onnx` of standard operators only"),
    _known(r"only support 4 dim input|input shape .* has length", "the network is not in 4-D form: " + _INSPECT),
    _known(r"max output num is 32", "ask for fewer outputs: `model.layers`"),
    _known(r"dimensions of 0|dynamically input model", "fix the input's shape: `model.image_size`"),
    _known(r"does not support odd number", "use an even `model.image_size`, or `compile.{tool}.input_type_rt: rgb`"),
    _known(
        r"cannot reshape array of size|load cal data for input",
        "the calibration files do not fit the input: " + _REPORT,
    ),
    _known(r"optimize_level '\w+' is invalid", "set `compile.{tool}.optimize_level` to one that the line names"),
    _known(r"Wrong core_num", "set `compile.{tool}.core_num` to 1"),
    _known(r"march '?[\w-]+'? is invalid|Invalid value for '--march'", "use the container of this board's generation"),
    _known(r"set to balance, please set balance_factor", "add `compile.{tool}.balance_factor`"),
    _known(r"max_percentile", "`compile.{tool}.max_percentile` is for `calibration_type: max`"),
    _known(r"parameter per_channel", "remove `compile.{tool}.per_channel`, or set calibration_type to max or kl"),
    _known(r"optimization '\w+' is", "remove it from `compile.{tool}.optimization`"),
    _known(r"node_info", "the nodes' precisions do not fit the tool: " + _VERSION),
    _known(r"quant_config", "the nodes' precisions do not fit the tool: " + _VERSION),
    _known(r"cal_data_dir", _REPORT),
    _known(r"hbdk-cc compile hbir model failed|hbdk-cc .*returncode -?\d+", "the compiler itself failed: " + _LEVEL),
    _known(r"ERROR-OCCUR-DURING \{?hbdk\.compile", "the compiler itself failed: " + _LEVEL),
    _known(r"Key '\w+' error:|Missing keys?:?|Wrong keys? |yaml file parse failed", _VERSION),
    _known(r"mean_value|scale_value|std_value|norm_type|input_type|input_layout|input_name|input_shape", _REPORT),
    _known(r"No such option|No such command|Got unexpected extra argument", _VERSION),
    _known(r"permission denied.*docker|docker.*permission denied", "let this user use docker (the group docker)"),
    _known(r"Cannot connect to the Docker daemon", "start docker"),
    _known(r"No such image|Unable to find image|pull access denied", "`docker pull` or `docker load` the image first"),
    _known(
        r"executable file not found in \$PATH", "`compile.{tool}.image` has no {tool}: name the image of this board"
    ),
)
_COMPLAINT = re.compile(
    r"^(ERROR|CRITICAL)\b|Error\b|\*\*\* ERROR|^docker: |not found in \$PATH|^Missing key|^Wrong key"
)


def explain(tail: Iterable[str], tool: str) -> tuple[str, str] | None:
    """Return the line of a log's end that says what failed, and its repair; None for what is not known.

    Lines of level ERROR (or worded like it) are held against each known failure, in the table's order.
    """
    lines = [line for line in tail if "exception in command" not in line]
    complaints = [line for line in lines if _COMPLAINT.search(line)] or lines[-5:]
    for failure in KNOWN:
        for line in complaints:
            if failure.line.search(line):
                return line.removeprefix("ERROR ").strip(), failure.fix.format(tool=tool)
    return None
