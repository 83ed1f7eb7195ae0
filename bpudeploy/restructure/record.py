"""The record of a GRAPH artifact, stored in the ONNX file's metadata."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from bpudeploy.onnxmodel import metadata_of, set_metadata

if TYPE_CHECKING:
    import onnx

KEY = "bpudeploy.restructure"


class Proof(BaseModel):
    """The measured exactness of the rewrite.

    Differences are the maximum |Δ| over the range (max - min) of the reference output over all images; ``random`` is
    for one seeded random input. Top-1 is equal on all ``images``; ``top1_equal`` is None if the outputs are not
    class scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    images: int
    tolerance: float
    max_relative_difference: float
    random_relative_difference: float
    top1_equal: int | None


class GraphRecord(BaseModel):
    """The proof, node counts by operator, nodes kept in float, and how often each rule applied."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    proof: Proof
    nodes: dict[str, int]
    keep_float: tuple[str, ...]
    rules: dict[str, int]

    def write(self, model: onnx.ModelProto) -> None:
        """Store the record in ``model``'s metadata, replacing an earlier one."""
        set_metadata(model, KEY, self.model_dump_json())

    def append(self, path: Path) -> None:
        """Append the record to a model file that has none: protobuf merges concatenated messages.

        See https://protobuf.dev/programming-guides/encoding/#last-one-wins.
        """
        import onnx

        tail = onnx.ModelProto()
        tail.metadata_props.add(key=KEY, value=self.model_dump_json())
        with path.open("ab") as file:
            file.write(tail.SerializeToString())

    @classmethod
    def read(cls, model: onnx.ModelProto) -> GraphRecord:
        """Return the record in ``model``'s metadata.

        Raises:
            KeyError: there is none.
        """
        return cls.model_validate_json(metadata_of(model)[KEY])


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of nodes per operator, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))
