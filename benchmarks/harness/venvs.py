"""Virtual environments: one for each system, with its pinned requirements, in `.bench/` of the checkout."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

__all__ = ["ROOT", "python_of"]

ROOT = Path(__file__).resolve().parents[2]

#: Seconds that pip may take.
PATIENCE = 600


def python_of(name: str, requirements: tuple[str, ...]) -> Path:
    """Return the interpreter of an environment with these requirements; it is made if it is missing or another one.

    Args:
        name: Name of the environment.
        requirements: Pins like `name==version`; none means the environment that runs this.

    Raises:
        RuntimeError: pip fails.
    """
    if not requirements:
        return Path(sys.executable)
    folder = ROOT / ".bench" / name
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    wanted = "\n".join([f"# CPython {sys.version.split()[0]}", *requirements, ""])
    folder.parent.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:  # two calls of the benchmark may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            _run(["bash", str(ROOT / ".ci" / "venv"), str(folder), sys.executable])
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
            stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
