"""Known errors of the vendor's tools, with their fixes.

Messages of hb_mapper are from runs of 1.24.3, those of hb_compile from the vendor's notes (OE-Skills).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_REPORT = "this is a bug in bpudeploy: report it with the log"
_VERSION = (
    "the tool's version differs from the supported one: see docs/reference/vendor-tools.md, and report it with the log"
)
_LEVEL = "the compiler itself failed: set `compile.{tool}.optimize_level` to O2 or lower"
_OPTIMIZER = "the tool's own optimizer failed: report it to the vendor with the log"
_PRECISIONS = "the nodes' precisions do not fit the tool: " + _VERSION
_INSPECT = "`bpudeploy inspect RECIPE` names the operator and possible fixes"

KNOWN_FAILURES: tuple[tuple[str, str], ...] = (
    (r"No space left on device|Fail to write", "free space on the store's disk, or use another --store"),
    (r"hbdebug crc32 = \w+, should be", "free space in the temporary folder (TMPDIR)"),
    (
        r"MemoryError|[Cc]annot allocate memory|std::bad_alloc|returncode -9\b",
        "raise `compile.{tool}.memory_gib`, or lower `jobs`",
    ),
    (r"hbdk-cc compile hbir model failed", _LEVEL),
    (r"Key '\w+' error:|Missing keys?: |Wrong keys? '|should be instance of|yaml file parse failed", _VERSION),
    (r"[Oo]pset version|ir version of the model|IR version", _REPORT),
    (r"There is no node can execute on BPU", "no convolution is left for the BPU: " + _INSPECT),
    (
        r"not support these cpu operators|CPU operator constraint is abnormal|only support \d dim input",
        "the operator is supported on neither device: " + _INSPECT,
    ),
    (r"unsupported domain|not supported by official onnx", "use a `model.onnx` with standard operators only"),
    (r"onnx model is invalid", "the tool's own check of the network failed; " + _REPORT),
    (r"max output num is 32", "select fewer outputs: `model.layers`"),
    (r"dimensions of 0|dynamically input model|dynamic (?:shape|dimension)", "fix the shape: `model.image_size`"),
    (r"does not support odd", "use an even `model.image_size`, or `compile.{tool}.input_type_rt: rgb`"),
    (
        r"cannot reshape array of size|load cal data for input|is empty, please check calibration",
        "the calibration files do not fit the input: " + _REPORT,
    ),
    (r"[Cc]al_data_dir|Wrong cal_dir", _REPORT),
    (r"optimize_level", "set `compile.{tool}.optimize_level` to a listed value"),
    (r"core simultaneously|[Cc]ore.?num", "set `compile.{tool}.core_num` to 1"),
    (r"calibration_type", "set `compile.{tool}.calibration_type` to a listed value"),
    (r"set to balance, please set balance_factor", "add `compile.{tool}.balance_factor`"),
    (r"max_time_per_fc", "set `compile.{tool}.max_time_per_fc` to 0, or to at least 1000"),
    (r"max_percentile", "`compile.{tool}.max_percentile` is for `calibration_type: max`"),
    (r"optimization", "remove it from `compile.{tool}.optimization`"),
    (
        r"Unsupported datatype settings for march bernoulli",
        "X3 has no int16: remove it from `compile.{tool}.optimization`, or quantize for X3",
    ),
    (r"Unsupported datatype settings", "remove it from `compile.{tool}.optimization`"),
    (r"node_info|node_config|we only support ON|only support is \['(?:int8|BPU)|quant_config", _PRECISIONS),
    (r"march invalid|march '?[\w-]+'? is invalid|Invalid value for '--march'", "use the tool for this board"),
    (
        r"size of mean|mean_value|scale_value|std_value|[Nn]orm.type|[Ii]nput_type|[Ii]nput_layout|[Ii]nput.name"
        r"|[Ii]nput.shape|input_source|Mean value not given",
        _REPORT,
    ),
    (r"hbdk\.hbdk-cc|ERROR-OCCUR-DURING \{?hbdk\.compile", _LEVEL),
    (r"There is a Pass Error|ERROR-OCCUR-DURING \{?horizon_nn", _OPTIMIZER),
    (r"No such option|No such command|Got unexpected extra argument", _VERSION),
    (r"permission denied.*docker|docker.*permission denied", "add this user to the group docker"),
    (r"Cannot connect to the Docker daemon", "start docker"),
    (r"No such image|Unable to find image|pull access denied", "`docker pull` or `docker load` the image first"),
    (
        r"executable file not found in \$PATH",
        "`compile.{tool}.image` does not contain {tool}: use the image for this board",
    ),
)
"""Patterns of log lines, each with its fix, where ``{tool}`` is the backend's name; the first match wins."""
_ERROR_LINE = re.compile(r"Error\b|\*\*\* ERROR|^docker: |not found in \$PATH|^Missing key|^Wrong key")
_NOISE = re.compile(r"^(INFO|DEBUG|version|runtime version|git_version|cmake_build_type|supported_march)\b")
_LONGEST = 400


def explain(errors: Sequence[str], tail: Iterable[str], tool: str) -> tuple[str, str | None] | None:
    """Return why a tool failed, in its own words, and the fix if known; None if it gave no reason.

    The reason is its last record of level ERROR, after "yaml file parse failed" and tracebacks. If that record is only
    noise of the BPU's compiler, the one before is used. A tool that failed before logging (docker, a wrong option) is
    identified by its last lines.
    """
    for error in reversed(errors):
        lines = error.splitlines() if "std::bad_alloc" in error else [_without_echo(x) for x in error.splitlines()]
        reason = "; ".join(line for line in lines if not _NOISE.match(line.split("message: ")[-1]))
        if reason:
            return reason[:_LONGEST], _fix(reason, tool)
    last = list(tail)
    for line in (*(each for each in last if _ERROR_LINE.search(each)), *last[-5:]):
        fix = _fix(line, tool)
        if fix is not None:
            return line.strip(), fix
    return None


def _without_echo(line: str) -> str:
    """Cut a schema error before the YAML that it repeats, whose words would match other patterns."""
    return re.sub(r" in \{.*", "", line)


def _fix(text: str, tool: str) -> str | None:
    return next((fix.format(tool=tool) for pattern, fix in KNOWN_FAILURES if re.search(pattern, text)), None)
