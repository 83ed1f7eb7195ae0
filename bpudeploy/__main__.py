"""``python -m bpudeploy``."""

from bpudeploy.cli.main import entry

entry()
