"""Write noted results into the documentation: the JSON file, the tables of the page, the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.harness.plot import REQUIREMENTS
from benchmarks.harness.venvs import ROOT, python_of

__all__ = ["NOTED", "PICTURE", "publish"]

NOTED = ROOT / "docs" / "reference" / "benchmarks.json"
PICTURE = ROOT / "docs" / "concepts" / "performance.png"

#: Seconds that drawing may take.
PATIENCE = 120


def publish(told: Mapping[str, Any]) -> None:
    """Write all three."""
    NOTED.write_text(_lines(told), "utf-8")
    drawing = [str(python_of("plot", REQUIREMENTS)), "-m", "benchmarks.harness.plot", str(NOTED), str(PICTURE)]
    subprocess.run(drawing, cwd=ROOT, check=True, timeout=PATIENCE)
    subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py")], cwd=ROOT, check=True, timeout=PATIENCE)


def _lines(told: Mapping[str, Any]) -> str:
    """Return JSON with a line for each result, so that a difference between two runs can be read."""
    parts = []
    for name, value in told.items():
        if isinstance(value, list):
            lines = ",\n".join(f"  {json.dumps(entry)}" for entry in value)
            parts.append(f' "{name}": [\n{lines}\n ]')
        elif isinstance(value, dict):
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
            parts.append(f' "{name}": {{\n{lines}\n }}')
        else:
            parts.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
