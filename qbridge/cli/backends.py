"""`qbridge backends`: which there are, and what the others need."""

from __future__ import annotations

from qbridge.cli.flags import DebugFlag, Format, FormatFlag
from qbridge.cli.output import Column, print_json, print_table
from qbridge.discovery import backend_statuses

__all__ = ["EXAMPLES", "backends"]

EXAMPLES = (
    "qbridge backends",
    "qbridge backends --format json | jq -r '.[] | select(.installed) | .name'",
)


def backends(format: FormatFlag = Format.TABLE, debug: DebugFlag = False) -> None:
    """List the backends, and what to install for others.

    One that is not installed can't be used here until what it needs is there.

    JSON: an array of objects with name, installed (true or false) and needs (what to install, an array of texts).
    """
    statuses = backend_statuses()
    if format is Format.JSON:
        print_json(
            [{"name": status.name, "installed": status.installed, "needs": list(status.needs)} for status in statuses]
        )
        return
    print_table(
        [Column("backend"), Column("installed"), Column("needs"), Column("what it is")],
        (
            [status.name, "yes" if status.installed else "no", "; ".join(status.needs) or "-", status.summary]
            for status in statuses
        ),
    )
