"""The application: all commands, and the one place where they end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from qbridge import __version__
from qbridge.cli.commands import Commands
from qbridge.cli.ends import CommandFailed, end_of
from qbridge.cli.flags import DebugFlag, examples, wants_debug
from qbridge.service import ExitCode

__all__ = ["Application", "app"]


#: The parser's error for a wrong command line; typer itself names only this child of it.
_UsageError: Any = typer.BadParameter.__base__


class Application(TyperGroup):
    """The command `qbridge`. Errors are told as plain lines, and each has its exit code."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = Commands()

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Parse and run a command line, and end the process."""
        settings["standalone_mode"] = False
        sys.exit(end_of(partial(_parsed, partial(super().main, *args, **settings))))

    def invoke(self, ctx: Any) -> int:
        """Run the command that was parsed; return its exit code."""
        return end_of(partial(_parsed, partial(super().invoke, ctx)), wants_traceback=lambda: wants_debug(ctx))


app = typer.Typer(
    cls=Application,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "qbridge init                                  write a starter service",
        "qbridge check                                 is the configuration right?",
        """qbridge send hello '{"name": "world"}'        send a task""",
        "qbridge run                                   run tasks until Ctrl-C",
        "qbridge queues                                what waits, and for how long?",
        "qbridge dead list default                     what failed for good?",
    ),
)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Take tasks from any queue and run them as coroutines on event-loop threads."""
    if version:
        sys.stdout.write(f"qbridge {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(f"{context.get_help()}\n")
        raise typer.Exit(ExitCode.USAGE)


def _parsed(command: Callable[[], object]) -> object:
    """Run a command; the parser's own ways to end it become ours."""
    try:
        return command()
    except typer.Exit as exc:  # --help, --version
        return exc.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except _UsageError as exc:
        raise CommandFailed(_usage(exc), code=ExitCode.USAGE) from exc


def _usage(exc: Any) -> str:
    message = str(exc.format_message()).strip().removesuffix(".").replace("Value error, ", "")
    if exc.ctx is not None:
        message += f" (see '{exc.ctx.command_path} --help')"
    return message[:1].lower() + message[1:]
