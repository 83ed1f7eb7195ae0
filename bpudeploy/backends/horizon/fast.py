"""The compiler's estimate of a network without images: ``hb_mapper makertbin --fast-perf``, all int8, at O3."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.backends.horizon import hb_mapper
from bpudeploy.backends.horizon.findings import profile_of
from bpudeploy.backends.horizon.layers import read_profiles
from bpudeploy.backends.horizon.network import MODEL
from bpudeploy.backends.horizon.session import Session
from bpudeploy.backends.horizon.tool import find_tool
from bpudeploy.conformance.profile import Profile
from bpudeploy.events import Event
from bpudeploy.onnxmodel import copy_model
from bpudeploy.spec.compile_options import HbMapperOptions
from bpudeploy.spec.target import March
from bpudeploy.stage import StepContext

if TYPE_CHECKING:
    import onnx

_OUT = "model_output"


def fast_profile(
    model: onnx.ModelProto, march: March, options: HbMapperOptions, emit: Callable[[Event], None]
) -> Profile:
    """Compile ``model`` (opset 10 or 11) for X3, Ultra or X5, and return the compiler's estimate by layer.

    Raises:
        ToolMissing: the tool is not on this machine.
        StageError: it fails, or takes longer than ``options.minutes``; the message has its reason.
    """
    import onnx

    tool = find_tool(hb_mapper.NAME, options)
    given = copy_model(model)
    given.ir_version = min(given.ir_version, hb_mapper.NEWEST_IR)
    with tempfile.TemporaryDirectory(prefix="bpudeploy-fast-") as folder:
        session = Session(StepContext(Path(folder), emit), hb_mapper.NAME, tool, options)
        onnx.save(given, session.folder / MODEL)
        arguments = ("makertbin", "--fast-perf", "--model-type", "onnx", "--march", march.value, "--model", MODEL)
        report = session.call(*arguments, log="hb_mapper_makertbin.log")
        return profile_of(report, *read_profiles(session.folder / _OUT))
