"""What the vendors' tools fail with, and what repairs it.

hb_mapper's words are those of 1.24.3, met in the tool; hb_compile's those of the vendor's notes (OE-Skills).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
_LEVEL = "the compiler itself failed: set `compile.{tool}.optimize_level` to O2 or lower"
_OPTIMIZER = "the tool's own optimizer failed: report it to the vendor with the log"
_PRECISIONS = "the nodes' precisions do not fit the tool: " + _VERSION
_INSPECT = "`bpudeploy inspect RECIPE` names the operator and what would help"

KNOWN_FAILURES: tuple[Failure, ...] = (
    _known(r"No space left on device|Fail to write", "make space where the store is, or name another --store"),
    _known(r"hbdebug crc32 = \w+, should be", "make space in the temporary folder (TMPDIR)"),
    _known(
        r"MemoryError|[Cc]annot allocate memory|std::bad_alloc|returncode -9\b",
        "raise `compile.{tool}.memory_gib`, or lower `jobs`",
    ),
    _known(r"hbdk-cc compile hbir model failed", _LEVEL),
    _known(r"Key '\w+' error:|Missing keys?: |Wrong keys? '|should be instance of|yaml file parse failed", _VERSION),
    _known(r"[Oo]pset version|ir version of the model|IR version", _REPORT),
    _known(r"There is no node can execute on BPU", "no convolution is left for the BPU: " + _INSPECT),
    _known(
        r"not support these cpu operators|CPU operator constraint is abnormal|only support \d dim input",
        "neither device has it: " + _INSPECT,
    ),
    _known(r"unsupported domain|not supported by official onnx", "give a `model.onnx` of standard operators only"),
    _known(r"onnx model is invalid", "the tool's own check of the network failed; " + _REPORT),
    _known(r"max output num is 32", "ask for fewer outputs: `model.layers`"),
    _known(r"dimensions of 0|dynamically input model|dynamic (?:shape|dimension)", "fix it: `model.image_size`"),
    _known(r"does not support odd", "use an even `model.image_size`, or `compile.{tool}.input_type_rt: rgb`"),
    _known(
        r"cannot reshape array of size|load cal data for input|is empty, please check calibration",
        "the calibration files do not fit the input: " + _REPORT,
    ),
    _known(r"[Cc]al_data_dir|Wrong cal_dir", _REPORT),
    _known(r"optimize_level", "set `compile.{tool}.optimize_level` to one that the line names"),
    _known(r"core simultaneously|[Cc]ore.?num", "set `compile.{tool}.core_num` to 1"),
    _known(r"calibration_type", "set `compile.{tool}.calibration_type` to one that the line names"),
    _known(r"set to balance, please set balance_factor", "add `compile.{tool}.balance_factor`"),
    _known(r"max_time_per_fc", "`compile.{tool}.max_time_per_fc` takes 0, or 1000 and more"),
    _known(r"max_percentile", "`compile.{tool}.max_percentile` is for `calibration_type: max`"),
    _known(r"optimization", "remove it from `compile.{tool}.optimization`"),
    _known(
        r"Unsupported datatype settings for march bernoulli",
        "X3 has no int16: remove it from `compile.{tool}.optimization`, or quantize for X3",
    ),
    _known(r"Unsupported datatype settings", "remove it from `compile.{tool}.optimization`"),
    _known(r"node_info|node_config|we only support ON|only support is \['(?:int8|BPU)|quant_config", _PRECISIONS),
    _known(r"march invalid|march '?[\w-]+'? is invalid|Invalid value for '--march'", "use this board's own tool"),
    _known(
        r"size of mean|mean_value|scale_value|std_value|[Nn]orm.type|[Ii]nput_type|[Ii]nput_layout|[Ii]nput.name"
        r"|[Ii]nput.shape|input_source|Mean value not given",
        _REPORT,
    ),
    _known(r"hbdk\.hbdk-cc|ERROR-OCCUR-DURING \{?hbdk\.compile", _LEVEL),
    _known(r"There is a Pass Error|ERROR-OCCUR-DURING \{?horizon_nn", _OPTIMIZER),
    _known(r"No such option|No such command|Got unexpected extra argument", _VERSION),
    _known(r"permission denied.*docker|docker.*permission denied", "let this user use docker (the group docker)"),
    _known(r"Cannot connect to the Docker daemon", "start docker"),
    _known(r"No such image|Unable to find image|pull access denied", "`docker pull` or `docker load` the image first"),
    _known(
        r"executable file not found in \$PATH", "`compile.{tool}.image` has no {tool}: name the image of this board"
    ),
)
_COMPLAINT = re.compile(r"Error\b|\*\*\* ERROR|^docker: |not found in \$PATH|^Missing key|^Wrong key")
_CHATTER = re.compile(r"^(INFO|DEBUG|version|runtime version|git_version|cmake_build_type|supported_march)\b")
_LONGEST = 400


def explain(errors: Sequence[str], tail: Iterable[str], tool: str) -> tuple[str, str | None] | None:
    """Return why a tool failed, in its words, and the repair where it is known; None where it did not say.

    The reason is its last record of level ERROR: "yaml file parse failed" and tracebacks stand before it. The BPU's
    compiler puts its own chatter there; then the record before says more. A tool that failed before it logged (docker,
    a wrong option) is known by its last lines.
    """
    for error in reversed(errors):
        lines = error.splitlines() if "std::bad_alloc" in error else [_until_the_echo(x) for x in error.splitlines()]
        said = "; ".join(line for line in lines if not _CHATTER.match(line.split("message: ")[-1]))
        if said:
            return said[:_LONGEST], _fix(said, tool)
    last = list(tail)
    for line in (*(each for each in last if _COMPLAINT.search(each)), *last[-5:]):
        fix = _fix(line, tool)
        if fix is not None:
            return line.strip(), fix
    return None


def _until_the_echo(line: str) -> str:
    """Cut a schema's error before the YAML that it repeats: words of that are no reason."""
    return re.sub(r" in \{.*", "", line)


def _fix(said: str, tool: str) -> str | None:
    return next((failure.fix.format(tool=tool) for failure in KNOWN_FAILURES if failure.line.search(said)), None)
