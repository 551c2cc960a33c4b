"""What holds for every test: it leaves nothing running behind it, and in CI a missing broker is a fault.

A leftover thread, task or socket is how a source that forgets something in `close()` shows itself. A test that means to
leave something behind says so: `@pytest.mark.leaves("threads", reason="a handler that never returns can't be ended")`.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest

from tests.support.rabbitmq_server import RabbitServer, rabbitmq_server_is_installed
from tests.support.redis_server import redis_server_is_installed

pytest_plugins = ["pytester"]  # runs the guards below on small suites of their own

GRACE = 1.0  # seconds that what is already ending may take to end
KINDS = frozenset({"threads", "tasks", "sockets"})
HAS_FAILED = pytest.StashKey[bool]()
OPEN_FILES = Path("/proc/self/fd")

#: By the mark of a test: whether the server that it needs is installed.
SERVERS = {"redis": redis_server_is_installed, "rabbitmq": rabbitmq_server_is_installed}


def pytest_configure() -> None:
    """Heed Ctrl-C where it is ignored, as in the background of a script: the processes of tests inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a `leaves` mark without a known kind and a reason, before any test runs."""
    for item in items:
        for mark in item.iter_markers("leaves"):
            if not mark.args or not KINDS.issuperset(mark.args) or not mark.kwargs.get("reason"):
                known = ", ".join(sorted(KINDS))
                raise pytest.UsageError(f"{item.nodeid}: leaves() takes kinds ({known}) and a reason, got {mark}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a broker's server a test that needs one is skipped at home, and fails in CI."""
    for broker, is_installed in SERVERS.items():
        if item.get_closest_marker(broker) is None or is_installed():
            continue
        message = f"{broker}-server is not installed; `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer]:
    """A RabbitMQ that all tests of this process share, as it starts slowly; its messages survive a restart."""
    with RabbitServer() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember a failure: its traceback keeps objects alive, so what it leaves behind proves nothing."""
    report = yield
    item.stash[HAS_FAILED] = item.stash.get(HAS_FAILED, False) or report.failed
    return report


@pytest.fixture(autouse=True)
def no_threads_or_sockets_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test after which a thread runs, or a socket is open, that was not there before.

    Set up before, so closed after, every other fixture of the test and its event loop.
    """
    threads = set(threading.enumerate())
    sockets = _open_sockets()

    yield

    if request.node.stash.get(HAS_FAILED, False):
        return
    excused = _excused(request)
    if "threads" not in excused and (running := _running_threads(threads)):
        pytest.fail(_complaint("threads", [_where(thread) for thread in running]), pytrace=False)
    if "sockets" not in excused and (left := _open_sockets() - sockets):
        # What only a reference cycle keeps is closed by this, with a ResourceWarning that fails the test as well.
        gc.collect()
        if left := _open_sockets() & left:
            pytest.fail(_complaint("sockets", sorted(left)), pytrace=False)


@pytest.fixture(autouse=True)
def no_tasks_left(request: pytest.FixtureRequest, no_threads_or_sockets_left: None) -> None:
    """Fails a coroutine test after which a task is pending on its loop; closing the loop would hide it by a cancel."""
    # Only coroutine tests have a loop. Asked for here, the guard is set up before the other fixtures of the test.
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("task_guard")


@pytest.fixture
async def task_guard(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """The part of `no_tasks_left` that runs on the loop of the test."""
    before = asyncio.all_tasks()

    yield

    if request.node.stash.get(HAS_FAILED, False) or "tasks" in _excused(request):
        return
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=GRACE)
    if left:
        pytest.fail(_complaint("tasks", sorted(repr(task) for task in left)), pytrace=False)


def _excused(request: pytest.FixtureRequest) -> set[str]:
    return {kind for mark in request.node.iter_markers("leaves") for kind in mark.args}


def _complaint(kind: str, left: list[str]) -> str:
    return f"the test left {kind} behind:\n" + "\n".join(left)


def _running_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    deadline = time.monotonic() + GRACE
    while True:
        running = [
            thread
            for thread in set(threading.enumerate()) - before
            # A dummy stands for a thread of a C library and outlives it; the timer of a test's time limit is not ours.
            if not isinstance(thread, threading._DummyThread) and not thread.name.startswith("pytest_timeout")
        ]
        left = deadline - time.monotonic()
        if not running or left <= 0:
            return running
        running[0].join(left)


def _where(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    stack = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
    return f"{thread!r}\n{stack}".rstrip()


def _open_sockets() -> set[str]:
    """Return the sockets this process has open, as the kernel names them; nothing where there is no /proc."""
    if not OPEN_FILES.is_dir():
        return set()
    names = set()
    for file in OPEN_FILES.iterdir():
        try:
            name = str(file.readlink())
        except OSError:  # closed since it was listed, as the listing's own file is
            continue
        if name.startswith("socket:"):
            names.add(name)
    return names
