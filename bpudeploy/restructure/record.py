"""What a GRAPH artifact says of itself, in the ONNX file's own metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import onnx

KEY = "bpudeploy.restructure"


class Proof(BaseModel):
    """How exact the rewrite was measured to be.

    Differences are worst |Δ| over (max - min) of the reference outputs of all images, the worst output
    where there are several; ``random`` is the same on one seeded random input. Top-1 was equal on all
    ``images``, or there is no Proof; ``top1_equal`` is None where the outputs are not class scores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    images: int
    tolerance: float
    max_relative_difference: float
    random_relative_difference: float
    top1_equal: int | None


class GraphRecord(BaseModel):
    """The proof, the nodes by operator, the nodes that stay in float, and what each rule did."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    proof: Proof
    nodes: dict[str, int]
    keep_float: tuple[str, ...]
    rules: dict[str, int]

    def write(self, model: onnx.ModelProto) -> None:
        """Put the record into ``model``'s metadata, in place of an earlier one."""
        kept = [(e.key, e.value) for e in model.metadata_props if e.key != KEY]
        del model.metadata_props[:]
        for key, value in [*kept, (KEY, self.model_dump_json())]:
            model.metadata_props.add(key=key, value=value)

    def append(self, path: Path) -> None:
        """Put the record behind a model's file that has none: protobuf reads messages in a row as one.

        Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins (repeated fields are joined).
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
        return cls.model_validate_json({entry.key: entry.value for entry in model.metadata_props}[KEY])


def count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many nodes of each operator there are, by operator name."""
    names = sorted(node.op_type for node in model.graph.node)
    return {name: names.count(name) for name in dict.fromkeys(names)}
