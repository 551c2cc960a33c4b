"""The guards of tests/conftest.py, run on small suites of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LEAVES_A_THREAD = """
    import threading

    import pytest

    release = threading.Event()

    {mark}
    def test_leaves_a_thread():
        threading.Thread(target=release.wait, name="forgotten", daemon=True).start()

    def test_comes_after_it():
        release.set()
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite with the guards and the settings of this one, and no tests yet."""
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text("utf-8"))
    pytester.makepyprojecttoml((ROOT / "pyproject.toml").read_text("utf-8"))
    return pytester


def run(suite: pytest.Pytester, tests: Path) -> pytest.RunResult:
    """Run the tests in this process; without hypothesis, which would be loaded anew each time just for its summary."""
    return suite.runpytest_inprocess(tests, "-p", "no:hypothesispytest")


def test_a_thread_left_behind_fails_the_test_that_left_it(suite: pytest.Pytester) -> None:
    """A thread that still runs a second after its test fails that test, by name, and not the one after it."""
    tests = suite.makepyfile(LEAVES_A_THREAD.format(mark=""))

    result = run(suite, tests)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaves_a_thread*", "*left threads*", "*forgotten*"])


def test_a_mark_with_a_reason_excuses_a_test(suite: pytest.Pytester) -> None:
    """A test marked `leaves("threads", reason=...)` may leave a thread."""
    mark = '@pytest.mark.leaves("threads", reason="it waits for the next test")'
    tests = suite.makepyfile(LEAVES_A_THREAD.format(mark=mark))

    result = run(suite, tests)

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("mark", ['leaves("threads")', 'leaves(reason="because")', 'leaves("files", reason="because")'])
def test_an_excuse_needs_a_known_kind_and_a_reason(suite: pytest.Pytester, mark: str) -> None:
    """A `leaves` mark without a known kind or without a reason stops the run before any test."""
    tests = suite.makepyfile(LEAVES_A_THREAD.format(mark=f"@pytest.mark.{mark}"))

    result = run(suite, tests)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(["*test_leaves_a_thread: leaves() takes kinds*"])


def test_a_thread_that_is_ending_is_waited_for(suite: pytest.Pytester) -> None:
    """The threads of a loop's own pool end when the loop is closed, and count as nothing left."""
    tests = suite.makepyfile("""
        import asyncio

        async def test_uses_the_pool():
            await asyncio.to_thread(sum, [1, 2])
    """)

    result = run(suite, tests)

    result.assert_outcomes(passed=1)


def test_a_thread_that_ends_within_the_grace_is_no_leftover(suite: pytest.Pytester) -> None:
    """A thread that ends by itself a moment after its test counts as nothing left."""
    tests = suite.makepyfile("""
        import threading

        def test_leaves_a_timer():
            threading.Timer(0.1, print).start()
    """)

    result = run(suite, tests)

    result.assert_outcomes(passed=1)


def test_a_task_left_behind_fails_the_test(suite: pytest.Pytester) -> None:
    """A task that is pending on the loop a second after its test fails the test, by name."""
    tests = suite.makepyfile("""
        import asyncio

        kept = []

        async def test_leaves_a_task():
            kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))
    """)

    result = run(suite, tests)

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*left tasks*", "*forgotten*"])


def test_a_task_that_the_fixture_ends_is_no_leftover(suite: pytest.Pytester) -> None:
    """A task that runs during the test and is ended by a fixture afterwards counts as nothing left."""
    tests = suite.makepyfile("""
        import asyncio

        import pytest

        @pytest.fixture
        async def started():
            tasks = []
            yield tasks
            for task in tasks:
                task.cancel()

        async def test_starts_a_task(started):
            started.append(asyncio.create_task(asyncio.Event().wait()))
    """)

    result = run(suite, tests)

    result.assert_outcomes(passed=1)


def test_a_socket_left_open_fails_the_test(suite: pytest.Pytester) -> None:
    """A socket that is open after its test fails the test."""
    tests = suite.makepyfile("""
        import socket

        kept = []

        def test_leaves_a_socket():
            kept.append(socket.socket())

        def test_closes_it():
            kept.pop().close()
    """)

    result = run(suite, tests)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_leaves_a_socket*", "*left sockets*"])


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "errors")])
def test_a_missing_redis_server_is_a_fault_in_ci_only(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    """Without redis-server on the path, a test that needs it is skipped at home and fails in CI."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(suite.path))
    tests = suite.makepyfile("""
        import pytest

        @pytest.mark.redis
        def test_asks_redis():
            pass
    """)

    result = run(suite, tests)

    result.assert_outcomes(**{outcome: 1})


def test_ctrl_c_counts_although_it_is_ignored_outside(suite: pytest.Pytester) -> None:
    """Started where SIGINT is ignored, as in the background of a script, tests can still stop processes by it."""
    tests = suite.makepyfile("""
        import signal
        import subprocess

        def test_interrupts_a_process():
            process = subprocess.Popen(["sleep", "30"])

            process.send_signal(signal.SIGINT)

            assert -signal.SIGINT == process.wait(timeout=10)
    """)
    pytest_command = f"{sys.executable} -m pytest -p no:hypothesispytest {tests}"

    result = suite.run("bash", "-c", f"trap '' INT; exec {pytest_command}")

    assert 0 == result.ret
