"""What the entry point names."""

from __future__ import annotations

from qbridge import Backend
from qbridge_spool.options import SpoolOptions
from qbridge_spool.source import CAPABILITIES, SpoolSource

__all__ = ["backend"]

backend = Backend(
    name="spool",
    summary="a folder of files, for the processes of one machine; anybody may drop a file into it",
    options=SpoolOptions,
    capabilities=CAPABILITIES,
    create=SpoolSource,
    needs={},
    example={"path": "./spool"},
)
