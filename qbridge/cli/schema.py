"""`qbridge schema`: what editors know of the YAML file."""

from __future__ import annotations

from qbridge.cli.flags import DebugFlag
from qbridge.cli.output import print_json
from qbridge.schema import config_schema

__all__ = ["EXAMPLES", "schema"]

EXAMPLES = ("qbridge schema > qbridge.schema.json",)


def schema(debug: DebugFlag = False) -> None:
    """Print the JSON Schema of the YAML file.

    It has the options of every installed backend. An editor with a YAML language server completes and checks the file
    if its first line is "# yaml-language-server: $schema=qbridge.schema.json".
    """
    print_json(config_schema())
