"""Alembic's environment: migrates in the connection and transaction of ``upgrade``."""

from __future__ import annotations

from alembic import context

from bpudeploy.results.migrations.upgrade import REVISION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=REVISION_TABLE)
with context.begin_transaction():
    context.run_migrations()
