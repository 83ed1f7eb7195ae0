"""The compiler's estimate of a network without images: ``hb_mapper makertbin --fast-perf``, all int8, at O3."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bpudeploy.backends.horizon.findings import profile_of
from bpudeploy.backends.horizon.hb_mapper import tool_session
from bpudeploy.backends.horizon.layers import read_profiles
from bpudeploy.backends.horizon.network import MODEL
from bpudeploy.conformance.profile import Profile
from bpudeploy.events import Event
from bpudeploy.spec.compile_options import HbMapperOptions
from bpudeploy.spec.target import March

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
    with tool_session(model, options, emit) as session:
        arguments = ("makertbin", "--fast-perf", "--model-type", "onnx", "--march", march.value, "--model", MODEL)
        report = session.call(*arguments, log="hb_mapper_makertbin.log")
        return profile_of(report, *read_profiles(session.folder / _OUT))
