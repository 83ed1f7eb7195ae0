"""fetch/model of an ONNX file: a user's complete network, checked, with a fixed input shape."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bpudeploy.errors import StageError
from bpudeploy.events import Note
from bpudeploy.host import open_session
from bpudeploy.onnxmodel import inputs_of, opset_of, shape_of
from bpudeploy.stage import Artifact, Kind, Stage, StepContext
from bpudeploy.stages.fetch_model import STEP, extract
from bpudeploy.stages.options import FieldOptions
from bpudeploy.stages.timm_models import METADATA_KEY, ModelMeta

if TYPE_CHECKING:
    import onnx

_MIN_OPSET = 9


@dataclass(frozen=True)
class OnnxOptions(FieldOptions):
    """``member`` is the file's path in an archive, None if the input is the file."""

    image_size: int | tuple[int, int] | None
    batch: int
    features: bool
    member: str | None


def fetch_onnx(work: StepContext, options: OnnxOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Check an ONNX network, fix its input shape, and store the shapes as metadata.

    Raises:
        StageError: the file is not ONNX, its opset is too old, its input is not one batch of images, or (for class
            scores) its output is not one row of scores per image.
    """
    return write_network(work, read_onnx(extract(inputs[0].path, options.member, work.dir)), options, "ONNX")


def write_network(work: StepContext, model: onnx.ModelProto, options: OnnxOptions, kind: str) -> tuple[Path, ...]:
    """Write an ONNX network with fixed input shape as a MODEL artifact; ``kind`` is its name in messages.

    Raises:
        StageError: as ``fetch_onnx``.
    """
    import onnx

    shape = _fix_input(model, options)
    channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    size = (shape[1], shape[2]) if channels_last else (shape[2], shape[3])
    outputs = _output_shapes(model, shape)
    if not options.features:
        _check_logits(outputs, shape[0])
    meta = ModelMeta(
        architecture="onnx",
        image_size=size,
        num_classes=0 if options.features else outputs[0][1],
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation="bilinear",
        crop_pct=1.0,
        crop_mode="center",
        batch=shape[0],
        features=options.features,
    )
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(asdict(meta), sort_keys=True))
    onnx.save(model, work.dir / "model.onnx")
    nodes = len(model.graph.node)
    work.emit(Note(STEP, f"{kind}, {nodes} nodes, input {_joined([shape])}, output {_joined(outputs)}"))
    return (work.dir / "model.onnx",)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX model.

    Raises:
        StageError: the file is not ONNX, its opset is older than 9, or its weights are in other files.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own errors, from several modules
        hint = "the source must name an .onnx model"
        raise StageError(f"{path.name} is not an ONNX file: {error}", hint=hint) from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        hint = "save it as one file: onnx.save(onnx.load(path), out, save_as_external_data=False)"
        raise StageError("the ONNX file has external weights", hint=hint)
    opset = opset_of(model)
    if opset < _MIN_OPSET or not model.graph.node:
        hint = f"export the network with opset {_MIN_OPSET} or newer"
        raise StageError(f"the ONNX file has opset {opset} and {len(model.graph.node)} nodes", hint=hint)
    return model


def _fix_input(model: onnx.ModelProto, options: OnnxOptions) -> tuple[int, ...]:
    """Fix the shape of the only image input and return it."""
    images = inputs_of(model.graph)
    if len(images) != 1 or len(images[0].type.tensor_type.shape.dim) != 4:
        found = ", ".join(f"{i.name} of rank {len(i.type.tensor_type.shape.dim)}" for i in images)
        hint = "it must have exactly one image input, (N, C, H, W) or (N, H, W, C)"
        raise StageError(f"the network's inputs are {found or 'none'}", hint=hint)
    dims = images[0].type.tensor_type.shape.dim
    last = dims[3].dim_value in (1, 3) and dims[1].dim_value not in (1, 3)
    size = (options.image_size,) * 2 if isinstance(options.image_size, int) else options.image_size or (None, None)
    wanted = [options.batch, *size, None] if last else [options.batch, None, *size]
    for index, (dim, n) in enumerate(zip(dims, wanted, strict=True)):
        if dim.dim_value and n and dim.dim_value != n:
            message = f"the network's input {images[0].name!r} has {dim.dim_value} on axis {index}, the recipe says {n}"
            hint = "export the model with that shape, or correct model.image_size and model.batch"
            raise StageError(message, hint=hint)
        if not dim.dim_value:
            if n is None:
                hint = "add model.image_size: a BPU runs one fixed shape"
                raise StageError(f"axis {index} of the network's input {images[0].name!r} is not fixed", hint=hint)
            dim.Clear()
            dim.dim_value = n
    return shape_of(images[0])


def _output_shapes(model: onnx.ModelProto, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Run the network once on zeros and return the shapes of its outputs."""
    import numpy as np

    try:
        session = open_session(model.SerializeToString())
        made = session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
    except Exception as error:  # onnxruntime raises its own, one class per status
        message = f"onnxruntime cannot run the network: {str(error).strip().splitlines()[0]}"
        raise StageError(message, hint="export it with operators that onnxruntime supports") from error
    return [tuple(array.shape) for array in made]


def _check_logits(outputs: list[tuple[int, ...]], batch: int) -> None:
    shape, *others = outputs or [()]
    if others or len(shape) < 2 or shape[0] != batch or any(n != 1 for n in shape[2:]):
        hint = "add `outputs: features` to the model: it is then verified without a top-1"
        raise StageError(f"the network outputs {_joined(outputs)}, not one row of class scores per image", hint=hint)


def _joined(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


FETCH_ONNX = Stage(
    "onnx",
    version=1,
    takes=(Kind.CHECKPOINT,),
    gives={"model": Kind.MODEL},
    run=fetch_onnx,
    tools=("onnx", "onnxruntime"),
)
