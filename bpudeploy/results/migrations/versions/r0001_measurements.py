"""The table of measurements: one document per row, and copies of the queried fields."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXTS = (
    *("made", "session", "recipe", "target", "march", "backend", "release", "binary"),
    *("board", "board_id", "device", "runtime", "provenance"),
)
_INDICES = {
    "release": ("release", "made"),
    "recipe": ("recipe", "target", "made"),
    "board": ("board",),
    "board_id": ("board_id",),
    "session": ("session",),
    "made": ("made",),
}


def upgrade() -> None:
    """Make the table and its indices."""
    text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")  # prefixes and dates by code point
    op.create_table(
        "measurements",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        *(sa.Column(name, text, nullable=False) for name in _TEXTS),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("samples", sa.LargeBinary(), nullable=False),
        sa.Column("answers", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("provenance IN ('measured', 'simulated', 'predicted')", name="ck_measurements_provenance"),
        sqlite_autoincrement=True,
    )
    for name, columns in _INDICES.items():
        op.create_index(f"ix_measurements_{name}", "measurements", list(columns))
