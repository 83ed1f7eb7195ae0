"""ONNX operators that move values and compute none; one definition for every package."""

from __future__ import annotations

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Change the shape; the order in memory stays."""
LAYOUT_CHANGES = RESHAPES | {"Transpose"}
NO_OPS = frozenset({"Identity", "Dropout"})
"""Copy their input at inference."""
VIEWS = LAYOUT_CHANGES | NO_OPS | {"Slice"}
"""One input, one output, whose values are values of the input, chosen by their place."""
SELECTIONS = VIEWS | {"MaxPool"}
"""One input, one output, whose values are values of the input: rounding before or after is the same."""
MOVES = (
    VIEWS
    | {"Split", "Concat", "Gather", "GatherND", "ScatterND"}
    | {"Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth"}
)
"""Every operator that copies values and computes none."""
