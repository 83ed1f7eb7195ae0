"""What a QUANTIZED artifact says of itself, in the ONNX file's own metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from bpudeploy.spec.precision import Precision

if TYPE_CHECKING:
    import onnx

KEY = "bpudeploy.quantize"


class Tap(BaseModel):
    """A tensor that is rounded where it is made; its views behind Reshape, Transpose and Slice share the scale.

    ``threshold`` is the |x| that becomes the largest integer, ``peak`` the largest |x| that calibration saw.
    ``products`` are the Conv and MatMul nodes that read it, itself or a view.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    precision: Precision
    threshold: float
    peak: float
    products: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """What one step of the integer is worth."""
        return self.threshold / self.precision.levels


class QuantizeRecord(BaseModel):
    """How the integers were found. ``taps``: tensor of the float graph to how it is held, in the graph's order.

    ``products`` are the Conv and MatMul nodes with integer inputs; ``levers`` says what was done, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    observer: str
    images: int
    taps: dict[str, Tap]
    products: tuple[str, ...]
    levers: tuple[str, ...] = ()
    factors: dict[str, tuple[float, ...]] = {}
    """Conv to what each of its output channels was multiplied by, where migrated scales went into its weights."""

    def write(self, model: onnx.ModelProto) -> None:
        """Put the record into ``model``'s metadata, in place of an earlier one."""
        kept = [(e.key, e.value) for e in model.metadata_props if e.key != KEY]
        del model.metadata_props[:]
        for key, value in [*kept, (KEY, self.model_dump_json())]:
            model.metadata_props.add(key=key, value=value)

    @classmethod
    def read(cls, model: onnx.ModelProto) -> QuantizeRecord:
        """Return the record in ``model``'s metadata.

        Raises:
            KeyError: there is none.
        """
        return cls.model_validate_json({entry.key: entry.value for entry in model.metadata_props}[KEY])


def int8_taps(record: QuantizeRecord) -> dict[str, Tap]:
    """Return the int8 taps that feed products."""
    return {name: tap for name, tap in record.taps.items() if tap.precision is Precision.INT8 and tap.products}
