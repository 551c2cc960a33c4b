"""Dumps: stacks on standard error while a loop is held up, and at no other time. In processes of their own."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import asyncio, ctypes, io, sys, time
from qbridge import dumps

def hold(seconds):
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))  # a PyDLL keeps the interpreter

dumps._INTERVAL = 0.1
"""


def run(script: str) -> str:
    """Run a script that is the body of a coroutine; return what it wrote on standard error."""
    body = "".join(f"    {line}\n" for line in script.strip().splitlines())
    text = f"{PRELUDE}\nasync def main():\n    loop = asyncio.get_running_loop()\n{body}\nasyncio.run(main())\n"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    return done.stderr


def test_stacks_are_dumped_while_the_interpreter_is_held() -> None:
    """The dump is there when the interpreter is free again, with the function that held it."""
    written = run("""
with dumps.stack_dumps(0.4, loop):
    await asyncio.sleep(0.3)
    hold(2.0)
    print("free", file=sys.stderr, flush=True)
""")

    dump, free, after = written.partition("free")
    assert 1 == dump.count("Timeout (0:00:00.5")
    assert " in hold\n" in dump
    assert ("free", "\n") == (free, after)


def test_a_loop_that_turns_dumps_nothing() -> None:
    """A loop that lives for several limits, and is held up for less than one, is left in peace."""
    written = run("""
with dumps.stack_dumps(0.6, loop):
    await asyncio.sleep(1.5)
    time.sleep(0.3)
    await asyncio.sleep(0.5)
""")

    assert "" == written


def test_nothing_is_left_wound_up() -> None:
    """What happens after the end is nobody's business."""
    written = run("""
with dumps.stack_dumps(0.2, loop):
    await asyncio.sleep(0.15)
time.sleep(1.0)
""")

    assert "" == written


def test_the_log_is_not_filled() -> None:
    """One dump, however often the interpreter is held within a minute."""
    written = run("""
with dumps.stack_dumps(0.2, loop):
    for _ in range(3):
        hold(0.8)
        await asyncio.sleep(0.3)
""")

    assert 1 == written.count("Timeout (")


def test_after_a_while_there_is_another_dump() -> None:
    """When the quiet time is over the next one is told."""
    written = run("""
dumps._QUIET = 0.2
with dumps.stack_dumps(0.2, loop):
    for _ in range(2):
        hold(0.8)
        await asyncio.sleep(0.6)
""")

    assert 2 == written.count("Timeout (")


def test_where_standard_error_is_no_file_nothing_is_dumped() -> None:
    """A program that has put something else in its place is not disturbed."""
    written = run("""
kept, sys.stderr = sys.stderr, io.StringIO()
with dumps.stack_dumps(0.2, loop):
    hold(0.8)
sys.stderr = kept
""")

    assert "" == written
