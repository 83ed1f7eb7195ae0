"""The record of a quantization, stored in the metadata of the QUANTIZED ONNX file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from bpudeploy.onnxmodel import metadata_of, set_metadata
from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import onnx

KEY = "bpudeploy.quantize"
HEADROOM = 2.0
"""The range of an int16 tap that feeds products, relative to the largest |x| during calibration: one of fifteen bits
for images with larger values. With none, the logits of recipes/inspection-cnn.yaml on X5 differ by 11.7 % from float,
with this by 2.8 %, and with 4 by the same."""


class StoredModel(BaseModel):
    """Base of values that are stored as JSON: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tap(StoredModel):
    """A tensor that is quantized where it is produced; its views (Reshape, Transpose, Slice) share the scale.

    ``threshold``: the |x| that maps to the largest integer. ``peak``: the largest |x| during calibration.
    ``products``: the Conv and MatMul nodes that read it, directly or through a view.
    """

    precision: Precision
    threshold: float
    peak: float
    products: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """The value of one integer step."""
        return self.threshold / self.precision.levels


class QuantizeRecord(StoredModel):
    """How a model was quantized. ``taps``: by tensor of the float graph, in graph order.

    ``products``: the Conv and MatMul nodes with integer inputs. ``levers``: the techniques applied, in order.
    """

    observer: str
    images: int
    taps: dict[str, Tap]
    products: tuple[str, ...]
    levers: tuple[str, ...] = ()
    factors: dict[str, tuple[float, ...]] = {}
    """By product: the factor of each output channel, where a scale was moved through it to a later layer."""

    def write(self, model: onnx.ModelProto) -> None:
        """Store the record in the metadata of ``model``, replacing an earlier one."""
        set_metadata(model, KEY, self.model_dump_json())

    @classmethod
    def read(cls, model: onnx.ModelProto) -> QuantizeRecord:
        """Read the record from the metadata of ``model``.

        Raises:
            KeyError: there is none.
        """
        return cls.model_validate_json(metadata_of(model)[KEY])


def int8_taps(record: QuantizeRecord) -> dict[str, Tap]:
    """Return the int8 taps that feed products."""
    return {name: tap for name, tap in record.taps.items() if tap.precision is Precision.INT8 and tap.products}
