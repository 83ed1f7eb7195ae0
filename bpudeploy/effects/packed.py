"""The agent as a zip that Python runs; packing it is reproducible, byte for byte."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

_AGENT = Path(__file__).parents[1] / "agent"
_PACKAGE = "bpudeploy_agent"
_MAIN = f"from {_PACKAGE}.main import main\n\nmain()\n"


@cache
def packed_agent(drivers: tuple[tuple[str, Path], ...] = ()) -> bytes:
    """Return ``bpudeploy/agent`` as a zip with a ``__main__.py``; run it as ``python3 AGENT.zip --root ROOT``.

    Args:
        drivers: runtimes that the agent has no driver for, and the file of each.
    """
    files = {f"{_PACKAGE}/{path.relative_to(_AGENT).as_posix()}": path.read_bytes() for path in _AGENT.rglob("*.py")}
    files |= {f"{_PACKAGE}/drivers/{runtime}.py": file.read_bytes() for runtime, file in drivers}
    files["__main__.py"] = _MAIN.encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # stored: zlib versions differ
            entry.create_system = 3  # Unix, on every platform
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return out.getvalue()
