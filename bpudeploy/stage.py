"""The contract that stages, backends and the runner share: Kind, Artifact, StepContext, Stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from bpudeploy.digest import Digest
from bpudeploy.events import Event


class Kind(StrEnum):
    """Content of an artifact. Each artifact is one file."""

    CHECKPOINT = "checkpoint"  # trained weights as published: .safetensors, .pth or .onnx
    CODE = "code"  # .py: a user's own network, trusted
    ARCHIVE = "archive"  # .whl, .zip or .tar of images
    MODEL = "model"  # .safetensors: a timm state dict, metadata names the architecture; or .onnx
    PREPROCESS = "preprocess"  # .json: the resolved preprocessing
    DATASET = "dataset"  # .zip: encoded images and index.json (evaluation and calibration sets)
    SAMPLES = "samples"  # .safetensors: uint8 NHWC pixels after resize and crop, int64 labels
    GRAPH = "graph"  # .onnx: float32
    QUANTIZED = "quantized"  # .onnx: QDQ
    BINARY = "binary"  # compiled model for the board's runtime
    SIMULATOR = "simulator"  # what a backend runs to compute as the binary does, in its own format
    SCORES = "scores"  # .safetensors: float32 logits (N, classes), int64 labels (N,)
    FINDINGS = "findings"  # .json: a report about a network


@dataclass(frozen=True)
class Artifact:
    """Immutable bytes: their kind, digest and path on this machine."""

    kind: Kind
    digest: Digest
    path: Path


@dataclass(frozen=True)
class StepContext:
    """What a running stage gets: a new directory to write to, and a function to emit events."""

    dir: Path
    emit: Callable[[Event], None]


class Options(Protocol):
    """Frozen options of one stage; ``canonical`` becomes part of the key."""

    def canonical(self) -> Mapping[str, Any]: ...


StageOptions = TypeVar("StageOptions", bound=Options)

Fingerprint = Mapping[str, str]
"""Tool name to version (or content digest), for example ``{"torch": "2.13.0"}``."""


@dataclass(frozen=True)
class Stage(Generic[StageOptions]):
    """A pure function with a name and a version.

    ``gives`` maps the name of each output to its kind; ``run`` returns one path for each, in that order.
    ``version`` is increased when the bytes that ``run`` writes change.
    ``tools`` are the Python distributions whose versions are part of the key, read from package metadata without
    importing. ``fingerprint`` adds the version of a backend's tool; ``look_up`` returns that version on the machine
    that runs the step, which may not be the one that planned it.
    """

    name: str
    version: int
    takes: tuple[Kind, ...]
    gives: Mapping[str, Kind]
    run: Callable[[StepContext, StageOptions, tuple[Artifact, ...]], tuple[Path, ...]]
    tools: tuple[str, ...] = ()
    fingerprint: Fingerprint = field(default_factory=dict)
    look_up: Callable[[], Fingerprint] | None = None
