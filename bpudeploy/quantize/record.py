"""What a QUANTIZED artifact says of itself, in the ONNX file's own metadata."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

KEY = "bpudeploy.quantize"


class QuantizeRecord(BaseModel):
    """How the scales were found. ``thresholds``: tensor to the |x| that becomes 127."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    observer: str
    images: int
    thresholds: dict[str, float]
    int8_nodes: tuple[str, ...]
