"""WakeUps: how a process that sent something wakes the workers of other processes that wait for it.

Each waiting source binds a Unix datagram socket in the folder `<file>-wake` beside the database, under a name that
begins with its queue's number; whoever commits a change sends one byte to every socket of that queue. A byte that gets
lost costs a waiting worker up to a second: it looks by itself once a second. See docs/decisions/sqlite-wake-up.md.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["WakeUps", "wake_folder"]

log = logging.getLogger(__name__)

#: Bytes of a socket's path: 104 on macOS and the BSDs, 108 on Linux, with the NUL at its end.
_MAX_SOCKET_PATH = 103

#: Bytes of a socket's name at most: queue, process, eight random digits.
_MAX_NAME = 32

#: Begins the name of a socket that is just being bound, when sending to it fails like to that of a dead process.
_UNFINISHED = "."

#: Seconds after which an unfinished one is what a dead process left.
_STALE_AFTER = 10.0

_BIND_ATTEMPTS = 10


def wake_folder(path: Path) -> Path:
    """Return the folder of the sockets for the database `path`.

    Beside the database, by whatever path a process reaches it; where that is too long for a socket, one that depends
    on the database's real path, among the temporary files.
    """
    real = Path(os.path.realpath(path))
    folder = real.with_name(f"{real.name}-wake")
    if len(os.fsencode(folder)) + 1 + _MAX_NAME <= _MAX_SOCKET_PATH:
        return folder
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"qbridge-{digest}-wake"


class WakeUps:
    """Listens for, and sends, the wake-ups of one queue; belongs to the thread of its connection.

    The socket that `listen` returns may be read on the event loop.

    Args:
        path: The database file, which exists.
        queue: `queues.id` of the queue.
    """

    def __init__(self, path: Path, queue: int) -> None:
        self._path = path
        self._prefix = f"{queue}-"
        self._folder = os.fspath(wake_folder(path))
        self._name = ""
        #: The bound socket, if any.
        self.listener: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._has_warned = False

    def listen(self) -> socket.socket | None:
        """Return the bound socket, the same one as long as its file is there; None if there can't be one now."""
        if self.listener is not None and os.path.lexists(self._place(self._name)):
            return self.listener
        self._stop_listening()
        try:
            self._bind()
        except OSError as exc:
            # The next look tries again: the disk may have been full.
            if not self._has_warned:
                self._has_warned = True
                log.warning(
                    "no wake-ups from other processes, looking once a second",
                    extra={"path": str(self._path), "folder": self._folder, "error": str(exc)},
                )
        return self.listener

    def ring(self) -> None:
        """Wake every source of the queue that listens, in whatever process, except this one."""
        self._ring(self._prefix)

    def close(self) -> None:
        """Let go of the sockets, and of the folder if it is empty then. May be called twice."""
        self._stop_listening()
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _bind(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            listener.setblocking(False)
            name = self._bind_in_folder(listener)
        except BaseException:
            listener.close()
            raise
        self.listener, self._name = listener, name
        with suppress(OSError):
            os.chmod(self._place(name), self._permissions())  # noqa: PTH101
        self._ring("")  # clears away what dead processes of any queue left

    def _bind_in_folder(self, listener: socket.socket) -> str:
        attempts = 0
        while True:
            attempts += 1
            self._make_folder()
            name = f"{self._prefix}{os.getpid()}-{secrets.token_hex(4)}"
            try:
                listener.bind(self._place(_UNFINISHED + name))
                os.rename(self._place(_UNFINISHED + name), self._place(name))  # noqa: PTH104  # text paths throughout
            except FileNotFoundError:
                # Between the two steps another process, the last one to listen until then, removed the empty folder.
                if attempts == _BIND_ATTEMPTS:
                    raise
            else:
                return name

    def _make_folder(self) -> None:
        try:
            os.mkdir(self._folder)  # noqa: PTH102
        except FileExistsError:
            return
        # Whoever may write the database may listen, as with the files that SQLite itself puts beside it.
        permissions = self._permissions()
        with suppress(OSError):
            os.chmod(self._folder, permissions | (permissions & 0o444) >> 2)  # noqa: PTH101
            owner = os.stat(self._path)  # noqa: PTH116
            if os.geteuid() == 0:
                os.chown(self._folder, owner.st_uid, owner.st_gid)

    def _ring(self, prefix: str) -> None:
        try:
            names = os.listdir(self._folder)  # noqa: PTH208  # the fastest way, on each commit that adds messages
        except OSError:
            return  # nobody listens
        for name in names:
            if name.startswith(prefix) and name != self._name:
                self._send_byte(name)

    def _send_byte(self, name: str) -> None:
        try:
            if self._sender is None:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
            self._sender.sendto(b"!", self._place(name))
        except ConnectionRefusedError:
            self._clear_away(name)
        except OSError:
            # Full: it has not read earlier wake-ups and will look. Gone, or not ours to write: it looks by itself.
            pass

    def _clear_away(self, name: str) -> None:
        """Remove the socket file of a process that died, and the folder with the last one."""
        place = self._place(name)
        with suppress(OSError):
            if name.startswith(_UNFINISHED) and time.time() - os.lstat(place).st_mtime < _STALE_AFTER:
                return
            os.unlink(place)  # noqa: PTH108
            os.rmdir(self._folder)  # noqa: PTH106  # fails while others listen

    def _stop_listening(self) -> None:
        if self.listener is None:
            return
        self.listener.close()
        name, self.listener, self._name = self._name, None, ""
        self._clear_away(name)
        self._ring("")

    def _place(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _permissions(self) -> int:
        return os.stat(self._path).st_mode & 0o666  # noqa: PTH116
