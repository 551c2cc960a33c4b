"""The sqlite backend: durable queues in one file on this machine, for any number of processes, without a server.

Leases and delays are measured with the wall clock, the one clock that all processes share and that goes on over a
restart. Set back by an hour, it makes leases and delays last an hour longer; set forward, leases run out early, and
what is in flight may be run a second time. A clock that is slewed, as time daemons do, harms nothing.

A file that was emptied keeps its size and is filled again before it grows; `VACUUM` gives the room back to the disk.
"""

from qbridge_sqlite.options import SqliteOptions
from qbridge_sqlite.plugin import backend
from qbridge_sqlite.source import SqliteSource

__all__ = ["SqliteOptions", "SqliteSource", "backend"]
