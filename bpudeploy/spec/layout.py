"""How an accelerator lays tensors out: what the graph's layout is chosen by, as data of a target."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bpudeploy.spec.frozen import Frozen


class LayoutFacts(Frozen):
    """How an accelerator pads feature maps and computes strides, as far as it decides how a graph is laid out."""

    rows: Annotated[int, Field(ge=1, le=64)] = 1
    """Rows of a feature map that are computed together: other heights are padded to a multiple."""
    columns: Annotated[int, Field(ge=1, le=512)] = 1
    """Columns that are computed together."""
    reshape_columns: Annotated[int, Field(ge=1, le=1024)] = 1
    """What a Reshape reads and writes is padded to a multiple of these columns."""

    stride: Annotated[int, Field(ge=1, le=64)] | None = None
    """The largest stride of a convolution that is not computed at this stride first; no limit by default."""

    keys: Annotated[int, Field(ge=1, le=64)] = 1
    """The number of keys of an attention is padded to a multiple of this: its products read beyond the last key."""

    heads_together: Annotated[int, Field(ge=1)] | None = None
    """The most keys with which the heads of an attention are computed together, otherwise one at a time, whose scores
    fit on the chip; no limit by default.
    """

    most_stacked: Annotated[int, Field(ge=1)] | None = None
    """The most heads of all windows that are computed together, otherwise one head at a time; no limit by default."""

    tuned: dict[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=64)]] = Field(default_factory=dict)
    """By number of tokens, or keys of an attention: their rows; 1 leaves them as they were (`bpudeploy tune`)."""

    @property
    def changes_graphs(self) -> bool:
        """Whether any graph is laid out anew for these facts."""
        return self.rows > 1 or self.stride is not None

    def area(self, height: int, width: int) -> int:
        """Return the number of pixels that a feature map occupies, with padding."""
        return -(-height // self.rows) * self.rows * (-(-width // self.columns) * self.columns)
