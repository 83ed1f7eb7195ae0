"""What a GRAPH artifact says of itself, in the ONNX file's own metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import onnx

KEY = "bpudeploy.restructure"


class Proof(BaseModel):
    """How exact the rewrite was measured to be.

    Differences are worst |Δ| over (max - min) of the reference logits of all images; ``random`` is the
    same on one seeded random input. Top-1 was equal on all ``images``, or there is no Proof.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    images: int
    tolerance: float
    max_relative_difference: float
    random_relative_difference: float
    top1_equal: int


class GraphRecord(BaseModel):
    """The proof, the nodes by operator, the residual stream's tensors and the nodes that stay in float."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    proof: Proof
    nodes: dict[str, int]
    taps: tuple[str, ...]
    keep_float: tuple[str, ...]

    def write(self, model: onnx.ModelProto) -> None:
        """Put the record into ``model``'s metadata."""
        model.metadata_props.add(key=KEY, value=self.model_dump_json())

    @classmethod
    def read(cls, model: onnx.ModelProto) -> GraphRecord:
        """Return the record in ``model``'s metadata.

        Raises:
            KeyError: there is none.
        """
        return cls.model_validate_json({entry.key: entry.value for entry in model.metadata_props}[KEY])


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many nodes of each operator there are, by operator name."""
    names = sorted(node.op_type for node in model.graph.node)
    return {name: names.count(name) for name in dict.fromkeys(names)}
