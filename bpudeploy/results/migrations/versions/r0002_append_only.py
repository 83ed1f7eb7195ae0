"""Rows are only ever added: the database itself refuses to change or remove one."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_REFUSAL = "measurements are only ever added"
_SQLITE = (
    f"CREATE TRIGGER measurements_no_update BEFORE UPDATE ON measurements BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    f"CREATE TRIGGER measurements_no_delete BEFORE DELETE ON measurements BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    # INSERT OR REPLACE removes a row without asking the trigger above.
    "CREATE TRIGGER measurements_no_replace BEFORE INSERT ON measurements "
    "WHEN EXISTS (SELECT 1 FROM measurements WHERE id = NEW.id) "
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
)
_POSTGRESQL = (
    "CREATE FUNCTION measurements_only_added() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation'; END $$",
    "CREATE TRIGGER measurements_only_added BEFORE UPDATE OR DELETE OR TRUNCATE ON measurements "
    "FOR EACH STATEMENT EXECUTE FUNCTION measurements_only_added()",
)


def upgrade() -> None:
    """Make the triggers."""
    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
