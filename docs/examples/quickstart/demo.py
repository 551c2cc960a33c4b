"""The main job, from end to end: a worker service on a SQLite queue, fed by a second process, in a temporary folder.

`make demo` runs it. It exits 0 only if every task that was sent is accounted for.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
QBRIDGE = [sys.executable, "-m", "qbridge"]
DEADLINE = 60.0


def orders() -> str:
    """Return the arguments of `confirm_order`, a JSON object a line."""
    items = [["tea"], ["tea", "pot"], ["pot", "cup", "cup", "spoon"], ["cup"] * 20]
    lines = [
        json.dumps({"order": {"number": number, "placed_at": "2026-11-24T12:00:00Z", "items": items[number % 4]}})
        for number in range(1, 41)
    ]
    return "\n".join(lines)


def send(task: str, lines: str, folder: Path) -> int:
    """Send a task for each line, from a process of its own; return how many were accepted."""
    config = str(HERE / "qbridge.yaml")
    sending = subprocess.run(
        [*QBRIDGE, "send", "-c", config, "--lines", task],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(folder),
        timeout=DEADLINE,
    )
    if sending.returncode != 0:
        sys.exit(f"demo: sending {task} failed with {sending.returncode}:\n{sending.stderr}")
    return len(sending.stdout.splitlines())


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of the demo's processes: the queue's file stands in the temporary folder."""
    return {**os.environ, "SHOP_DATABASE": str(folder / "shop.db")}


def queue_state(folder: Path) -> dict[str, int]:
    """Return what `qbridge queues` says of the one queue."""
    command = [*QBRIDGE, "queues", "-c", str(HERE / "qbridge.yaml"), "--format", "json"]
    asked = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment(folder), timeout=DEADLINE
    )
    [state] = json.loads(asked.stdout)
    return state


def wait_until_empty(folder: Path, worker: subprocess.Popen[bytes]) -> dict[str, int]:
    """Return the queue's state when nothing is left to run, or when the worker has died."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and worker.poll() is None:
        state = queue_state(folder)
        if not (state["ready"] or state["delayed"] or state["in_flight"]):
            return state
    return queue_state(folder)


def finished(log: str) -> dict[str, dict[str, float]]:
    """Return, for each task, how many ended well, on which loop threads, and how long they took."""
    table: dict[str, dict[str, float]] = {}
    for line in log.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("message") != "task ended" or entry.get("outcome") != "done":
            continue
        row = table.setdefault(f"{entry['task']} on {entry['loop_thread']}", {"count": 0, "total": 0.0, "longest": 0.0})
        row["count"] += 1
        row["total"] += entry["duration"]
        row["longest"] = max(row["longest"], entry["duration"])
    return table


def main() -> int:
    """Run the demo; return its exit code."""
    with tempfile.TemporaryDirectory(prefix="qbridge-demo-") as name:
        folder = Path(name)
        log_file, out_file = folder / "worker.log", folder / "worker.out"
        with log_file.open("wb") as log, out_file.open("wb") as out:
            command = [
                *QBRIDGE,
                "run",
                "-c",
                str(HERE / "qbridge.yaml"),
                "--log-format",
                "json",
                "--log-level",
                "debug",
            ]
            worker = subprocess.Popen(command, stdout=out, stderr=log, env=environment(folder))
            try:
                began = time.monotonic()
                sent = send("confirm_order", orders(), folder)
                sent += send("reserve_stock", '["rare", 1]\n["common", 12]', folder)
                sent += send("print_label", "\n".join(f'["parcel {number}"]' for number in range(8)), folder)
                state = wait_until_empty(folder, worker)
                took = time.monotonic() - began
            finally:
                worker.send_signal(signal.SIGTERM)
                try:
                    code = worker.wait(timeout=DEADLINE)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    code = worker.wait()
        print(out_file.read_text(), end="")
        log_text = log_file.read_text()
        table = finished(log_text)
        run = sum(int(row["count"]) for row in table.values())
        retried = len(re.findall(r'"message": "task failed, it is tried again"', log_text))
        left = state["ready"] + state["delayed"] + state["in_flight"]

        print(f"\n{'task and loop thread':36} {'run':>5} {'mean':>8} {'longest':>8}")
        for key, row in sorted(table.items()):
            print(f"{key:36} {row['count']:5.0f} {row['total'] / row['count']:7.3f}s {row['longest']:7.3f}s")
        print(
            f"\nin {took:.1f} s: sent {sent}, run {run}, retried {retried}, failed {state['dead']}, left {left}; "
            f"the worker drained and left with exit code {code}"
        )
        agree = sent == run + state["dead"] + left and left == 0 and state["dead"] == 0 and code == 0
        if not agree:
            print(f"demo: the figures don't agree\n{log_text[-4000:]}", file=sys.stderr)
        return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
