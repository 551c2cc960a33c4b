"""Dumps: stacks on standard error while a loop is held up, and at no other time. In processes of their own."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import asyncio, ctypes, io, os, signal, subprocess, sys, threading, time
from itertools import repeat
from qbridge import dumps

def hold(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(repeat(0, 20_000_000))  # C code that keeps the interpreter, for some tenths of a second

dumps._INTERVAL = 0.05
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
    await asyncio.sleep(0.2)
    hold(1.5)
    print("free", file=sys.stderr, flush=True)
""")

    dump, free, after = written.partition("free")
    assert 1 == dump.count("Current thread 0x")
    assert " in hold\n" in dump
    assert ("free", "\n") == (free, after)


def test_a_loop_that_turns_dumps_nothing() -> None:
    """A loop that lives for several limits beside a thread that works, and is held up for less, is left in peace."""
    written = run("""
threading.Thread(target=hold, args=(2.0,)).start()
with dumps.stack_dumps(1.0, loop):
    await asyncio.sleep(1.5)
    time.sleep(0.3)
    await asyncio.sleep(0.5)
""")

    assert "" == written


def test_a_process_that_was_stopped_dumps_nothing() -> None:
    """Its threads run Python code at once when it goes on: nobody may read their stacks then."""
    written = run("""
with dumps.stack_dumps(0.3, loop):
    await asyncio.sleep(0.2)
    subprocess.Popen(["sh", "-c", f"sleep 1.5; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    await asyncio.sleep(0.5)
""")

    assert "" == written


def test_nothing_is_left_wound_up() -> None:
    """What happens after the end is nobody's business, and the signal does what it did before."""
    written = run("""
with dumps.stack_dumps(0.2, loop):
    await asyncio.sleep(0.15)
hold(1.0)
print(signal.getsignal(signal.SIGPROF) is signal.SIG_DFL, file=sys.stderr)
""")

    assert "True\n" == written


def test_the_log_is_not_filled() -> None:
    """One dump, however often the interpreter is held within a minute."""
    written = run("""
with dumps.stack_dumps(0.2, loop):
    for _ in range(3):
        hold(0.8)
        await asyncio.sleep(0.2)
""")

    assert 1 == written.count("Current thread 0x")


def test_after_a_while_there_is_another_dump() -> None:
    """When the quiet time is over the next one is told."""
    written = run("""
dumps._QUIET = 0.2
dumps._FADING = 0.0
with dumps.stack_dumps(0.2, loop):
    for _ in range(2):
        hold(0.8)
        await asyncio.sleep(0.6)
""")

    assert 2 == written.count("Current thread 0x")


def test_where_standard_error_is_no_file_nothing_is_dumped() -> None:
    """A program that has put something else in its place is not disturbed."""
    written = run("""
kept, sys.stderr = sys.stderr, io.StringIO()
with dumps.stack_dumps(0.2, loop):
    hold(0.8)
sys.stderr = kept
""")

    assert "" == written


def test_a_profiler_keeps_its_signal() -> None:
    """A program that uses the timer itself goes on using it."""
    written = run("""
signal.signal(signal.SIGPROF, lambda *_: print("mine", file=sys.stderr))
with dumps.stack_dumps(0.2, loop):
    signal.setitimer(signal.ITIMER_PROF, 0.1)
    hold(0.5)
""")

    assert "mine\n" == written
