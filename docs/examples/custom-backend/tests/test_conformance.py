"""The spool backend keeps the rules that qbridge's own backends keep."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from qbridge_spool import SpoolOptions, SpoolSource, backend

from qbridge import SourceFull, SourceMisconfigured
from qbridge.testing import SourceConformance

CLAIM_AND_HANG = """
import asyncio, pathlib, sys
from qbridge_spool import SpoolOptions, SpoolSource

async def main(path, lease, count):
    source = SpoolSource("q", SpoolOptions(path=pathlib.Path(path), lease=float(lease)))
    await source.open()
    claimed = await source.receive(int(count), 5)
    print(len(claimed), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class TestSpool(SourceConformance):
    """All rules, on a folder of each test's own."""

    capabilities = backend.capabilities
    delay = 0.2
    # A disk that others use as well takes its time to write 9000 files.
    patience = 15.0
    time_limit = 120.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "spool"

    def new_source(self, lease: float) -> SpoolSource:
        """Make a source of that folder."""
        return SpoolSource("q", SpoolOptions(path=self.path, lease=lease, poll_interval=0.02))

    def new_unreachable_source(self) -> SpoolSource:
        """Make a source of a folder on a disk that is not there."""
        return SpoolSource("q", SpoolOptions(path=self.path / "not mounted" / "spool"))

    async def restart(self) -> None:
        """Do nothing: there is no server, and the tests close and open the source."""

    async def kill_consumer(self, count: int) -> None:
        """Kill a process that has claimed."""
        command = [sys.executable, "-c", CLAIM_AND_HANG, str(self.path), str(self.short_lease), str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220  # nothing else runs
            assert process.stdout is not None
            claimed = process.stdout.readline()
            process.kill()
        assert f"{count}\n".encode() == claimed

    async def test_a_file_that_anybody_moves_in_is_a_message(self) -> None:
        """A file of any name is delivered with its bytes, oldest first; a hidden one is not looked at."""
        source = await self.open_source()
        for name in ("job.json", ".being-written", "späte arbeit"):
            (self.path / "ready" / name).write_bytes(name.encode())

        stats = await source.stats()
        deliveries = await self.claim(source, 2)

        assert 2 == stats.ready
        assert [b"job.json", "späte arbeit".encode()] == [delivery.body for delivery in deliveries]
        await source.settle([delivery.ack() for delivery in deliveries])
        assert [".being-written"] == [path.name for path in (self.path / "ready").iterdir()]

    async def test_a_disk_without_room_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A send that finds no room raises SourceFull; nothing of its messages is kept, and it works when there is."""
        source = await self.open_source()
        calls = iter([None, OSError(errno.ENOSPC, "No space left on device")])

        def fsync(handle: int) -> None:
            if (fault := next(calls, None)) is not None:
                raise fault

        monkeypatch.setattr("os.fsync", fsync)

        with pytest.raises(SourceFull, match="no room for a message"):
            await source.send([self.message(b"1"), self.message(b"2")])

        assert [] == [path for path in self.path.rglob("*") if path.is_file()]
        await source.send([self.message(b"3")])
        assert [b"3"] == [delivery.body for delivery in await self.claim(source, 1)]

    async def test_a_folder_that_was_deleted_is_made_again(self) -> None:
        """After the queue's folder is gone a call fails, and reconnecting makes it anew."""
        source = await self.open_source()
        for folder in self.path.iterdir():
            folder.rmdir()
        self.path.rmdir()

        await source.close()
        await source.open()
        await source.send([self.message(b"works")])

        assert [b"works"] == [delivery.body for delivery in await self.claim(source, 1)]

    async def test_a_folder_that_may_not_be_used_is_a_misconfiguration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without permission a person must act: `open` doesn't ask for another try."""

        def refuse(path: Path, **_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)  # root, who may run this, may do anything

        with pytest.raises(SourceMisconfigured, match="spool can't be made or read"):
            await self.open_source()
