"""A folder of files as a qbridge queue: `backend: spool`."""

from qbridge_spool.options import SpoolOptions
from qbridge_spool.plugin import backend
from qbridge_spool.source import SpoolSource

__all__ = ["SpoolOptions", "SpoolSource", "backend"]
