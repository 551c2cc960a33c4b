"""How lines are read from a pipe, a file or nothing: all of them, as they come, within limits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge.cli.input_lines import InputLines, LineTooLongError
from tests.support.waiting import PATIENCE


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe: where to read, where to write."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    if writing_is_open(writing):
        os.close(writing)


def writing_is_open(descriptor: int) -> bool:
    """Return whether a test has not closed its end of the pipe."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def test_lines_come_with_what_was_written(pipe: tuple[int, int]) -> None:
    """A batch is what is there, without line ends; the next one waits for more; the last line needs no end."""
    reading, writing = pipe
    lines = InputLines(reading, longest=100)

    os.write(writing, b"a\nb\r\n\nc")
    first = await lines.batch()
    os.write(writing, b"d\ne")
    second = await lines.batch()
    os.close(writing)
    third = await lines.batch()
    end = await lines.batch()

    assert ([b"a", b"b", b""], [b"cd"], [b"e"], []) == (first, second, third, end)
    assert 10 == lines.position


async def test_a_batch_waits_for_its_first_line(pipe: tuple[int, int]) -> None:
    """Half a line is not given out, and reading it doesn't spin or block the loop."""
    reading, writing = pipe
    lines = InputLines(reading, longest=100)
    os.write(writing, b"hal")

    waiting = asyncio.create_task(lines.batch())
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    os.write(writing, b"f\n")
    batch = await asyncio.wait_for(waiting, PATIENCE)

    assert set() == done
    assert [b"half"] == batch


async def test_a_cancelled_batch_loses_no_line(pipe: tuple[int, int]) -> None:
    """What was read when the wait is cancelled is in the next batch."""
    reading, writing = pipe
    lines = InputLines(reading, longest=100)
    os.write(writing, b"hal")
    waiting = asyncio.create_task(lines.batch())
    await asyncio.wait([waiting], timeout=0.05)

    waiting.cancel()
    await asyncio.wait([waiting])
    os.write(writing, b"f\n")

    assert [b"half"] == await lines.batch()


async def test_a_batch_has_at_most_a_thousand_lines(tmp_path: Path) -> None:
    """A file is read in batches, though all of it is there."""
    file = tmp_path / "lines"
    file.write_bytes(b"".join(b"%d\n" % number for number in range(2500)))

    with file.open("rb") as stream:
        lines = InputLines(stream.fileno(), longest=100)
        batches = [await lines.batch() for _ in range(4)]

    assert [1000, 1000, 500, 0] == [len(batch) for batch in batches]
    assert [b"%d" % number for number in range(2500)] == [line for batch in batches for line in batch]


async def test_a_batch_of_long_lines_has_few(tmp_path: Path) -> None:
    """A batch ends with about 8 MiB, so long lines don't fill the memory."""
    file = tmp_path / "lines"
    file.write_bytes((b"x" * 2**20 + b"\n") * 20)

    with file.open("rb") as stream:
        lines = InputLines(stream.fileno(), longest=2**20)
        batches = [await lines.batch() for _ in range(4)]

    assert [8, 8, 4, 0] == [len(batch) for batch in batches]


@pytest.mark.parametrize("ending", [b"\n", b""], ids=["with an end", "without an end"])
async def test_a_line_over_the_limit_is_refused_after_those_before_it(tmp_path: Path, ending: bytes) -> None:
    """The lines before one that is too long are given out; at the limit a line is still taken."""
    file = tmp_path / "lines"
    file.write_bytes(b"a\n" + b"x" * 100 + b"\n" + b"y" * 101 + ending)

    with file.open("rb") as stream:
        lines = InputLines(stream.fileno(), longest=100)
        batch = await lines.batch()
        with pytest.raises(LineTooLongError, match="the line has more than 100 bytes"):
            await lines.batch()

    assert [b"a", b"x" * 100] == batch


async def test_an_endless_line_is_not_read_to_its_end(pipe: tuple[int, int]) -> None:
    """A line without an end is refused when it is over the limit, while its writer goes on."""
    reading, writing = pipe
    lines = InputLines(reading, longest=100)
    os.write(writing, b"x" * 60_000)

    with pytest.raises(LineTooLongError):
        await lines.batch()


async def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """An error of the system says that it is about the standard input."""
    with (tmp_path / "written").open("wb") as stream, pytest.raises(OSError, match="standard input"):
        await InputLines(stream.fileno(), longest=100).batch()
