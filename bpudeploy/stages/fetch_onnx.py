"""fetch/model of an ONNX file: a whole network of the user's, checked, with a fixed input shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpudeploy.errors import StageError
from bpudeploy.events import Note
from bpudeploy.host import open_session
from bpudeploy.stage import Artifact, Kind, Stage, Work
from bpudeploy.stages.fetch_model import STEP, extract
from bpudeploy.stages.timm_models import METADATA_KEY, ModelMeta

if TYPE_CHECKING:
    import onnx

_OLDEST = 9


@dataclass(frozen=True)
class OnnxOptions:
    """``member`` is the file's path in an archive; None where the source is the file."""

    image_size: int | tuple[int, int] | None
    batch: int
    features: bool
    member: str | None

    def canonical(self) -> Mapping[str, Any]:
        return asdict(self)


def fetch_onnx(work: Work, options: OnnxOptions, inputs: tuple[Artifact, ...]) -> tuple[Path, ...]:
    """Check an ONNX network, fix its input's shape and note what it takes and gives.

    Raises:
        StageError: it is no ONNX file, its opset is too old, its input is not one batch of images, or (for
            class scores) its output is not one row of scores an image.
    """
    path = extract(inputs[0].path, options.member, work.dir) if options.member else inputs[0].path
    return write_network(work, read_onnx(path), options, "ONNX")


def write_network(work: Work, model: onnx.ModelProto, options: OnnxOptions, kind: str) -> tuple[Path, ...]:
    """Write an ONNX network as a MODEL artifact, its input's shape fixed; ``kind`` is what people call it.

    Raises:
        StageError: as ``fetch_onnx``.
    """
    import onnx

    shape = _fix_input(model, options)
    channels_last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    size = (shape[1], shape[2]) if channels_last else (shape[2], shape[3])
    given = _outputs(model, shape)
    if not options.features:
        _hold_logits(given, shape[0])
    meta = ModelMeta(
        architecture="onnx",
        image_size=size,
        num_classes=0 if options.features else given[0][1],
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
    shapes = ", ".join("x".join(map(str, s)) for s in given)
    work.emit(Note(STEP, f"{kind}, {len(model.graph.node)} nodes, input {'x'.join(map(str, shape))}, output {shapes}"))
    return (work.dir / "model.onnx",)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the model in a file of ours to read, checked.

    Raises:
        StageError: it is not one, its opset is older than 9, or its weights are in other files.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf has its own errors, of several modules
        raise StageError(
            f"{path.name} is not an ONNX file: {error}", hint="the source must name an .onnx model"
        ) from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        raise StageError(
            "the ONNX file keeps its weights in other files",
            hint="save it as one: onnx.save(onnx.load(path), out, save_as_external_data=False)",
        )
    opset = next((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST or not model.graph.node:
        raise StageError(
            f"the ONNX file has opset {opset} and {len(model.graph.node)} nodes",
            hint=f"export a network with opset {_OLDEST} or newer",
        )
    return model


def _fix_input(model: onnx.ModelProto, options: OnnxOptions) -> tuple[int, ...]:
    """Give the one image input a fixed shape and return it."""
    weights = {t.name for t in model.graph.initializer}
    images = [i for i in model.graph.input if i.name not in weights]
    if len(images) != 1 or len(images[0].type.tensor_type.shape.dim) != 4:
        found = ", ".join(f"{i.name} of rank {len(i.type.tensor_type.shape.dim)}" for i in images)
        raise StageError(
            f"the network takes {found or 'nothing'}", hint="one input of images, (N, C, H, W) or (N, H, W, C), is fed"
        )
    dims = images[0].type.tensor_type.shape.dim
    last = dims[3].dim_value in (1, 3) and dims[1].dim_value not in (1, 3)
    size = (options.image_size,) * 2 if isinstance(options.image_size, int) else options.image_size or (None, None)
    wanted = [options.batch, *size, None] if last else [options.batch, None, *size]
    for index, (dim, n) in enumerate(zip(dims, wanted, strict=True)):
        if dim.dim_value and n and dim.dim_value != n:
            raise StageError(
                f"the network's input {images[0].name!r} has {dim.dim_value} on axis {index}, the recipe says {n}",
                hint="a fixed shape stays: export the model again, or correct model.image_size and model.batch",
            )
        if not dim.dim_value:
            if n is None:
                raise StageError(
                    f"axis {index} of the network's input {images[0].name!r} is not fixed",
                    hint="add model.image_size: a BPU runs one fixed shape",
                )
            dim.Clear()
            dim.dim_value = n
    return tuple(d.dim_value for d in dims)


def _outputs(model: onnx.ModelProto, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Run the network once on zeros and return the shapes that it gives."""
    import numpy as np

    try:
        session = open_session(model.SerializeToString())
        made = session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
    except Exception as error:  # onnxruntime raises its own, one class a status
        raise StageError(
            f"onnxruntime cannot run the network: {str(error).strip().splitlines()[0]}",
            hint="export it again, with operators that onnxruntime has",
        ) from error
    return [tuple(array.shape) for array in made]


def _hold_logits(given: list[tuple[int, ...]], batch: int) -> None:
    scores = len(given) == 1 and given[0][0] == batch and all(n == 1 for n in given[0][2:]) and len(given[0]) >= 2
    if not scores:
        shapes = ", ".join("x".join(map(str, s)) for s in given)
        raise StageError(
            f"the network gives {shapes}, which is not one row of class scores an image",
            hint="add `outputs: features` to the model: it is then rewritten and proven without a top-1",
        )


FETCH_ONNX = Stage(
    "onnx",
    version=1,
    takes=(Kind.CHECKPOINT,),
    gives={"model": Kind.MODEL},
    run=fetch_onnx,
    tools=("onnx", "onnxruntime"),
)
