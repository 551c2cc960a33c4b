"""From a file, a text or a mapping to a `Config`, or to one error that tells every problem."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qbridge.backend import Backend
from qbridge.config.document import Document
from qbridge.config.models import Config, unknown_loop_groups
from qbridge.discovery import installed_backends
from qbridge.errors import ConfigError

__all__ = ["build_config", "load_config", "parse_config", "read_config_file"]

#: pydantic's errors for a number, or the like, where a text is wanted.
_TEXT_WANTED = frozenset({"string_type", "bytes_type", "path_type"})


def load_config(
    path: str | os.PathLike[str],
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    backends: Mapping[str, Backend[Any]] | None = None,
) -> Config:
    """Read the YAML file of a service.

    What counts, from the weakest to the strongest: defaults, the file, `QBRIDGE_<SECTION>__<KEY>` variables, overrides.

    Args:
        path: The file; at most 1 MiB of UTF-8.
        env: Where `${VAR}` and `QBRIDGE_<SECTION>__<KEY>` are looked up; None takes `os.environ`.
        overrides: Values by dotted key, such as `{"logging.level": "debug"}`; texts are typed as in YAML.
        backends: Backends by name; None takes the installed ones.

    Raises:
        ConfigError: The file can't be read, or something in it is wrong; one line for each problem, in file order.
    """
    text = read_config_file(path)
    return parse_config(text, file=os.fspath(path), env=env, overrides=overrides, backends=backends)


def read_config_file(path: str | os.PathLike[str]) -> bytes:
    """Return the text of a YAML file, unchecked; a byte more than is allowed, if it has more.

    Raises:
        ConfigError: It can't be read.
    """
    from qbridge.config.yaml_source import MAX_DOCUMENT_BYTES

    file = os.fspath(path)
    try:
        with Path(path).open("rb") as stream:
            return stream.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{file}: is a directory, not a file") from None
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise ConfigError(f"{file}: can't be read: {getattr(exc, 'strerror', None) or exc}") from None


def parse_config(
    text: str | bytes,
    *,
    file: str = "qbridge.yaml",
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    backends: Mapping[str, Backend[Any]] | None = None,
) -> Config:
    """Read a YAML text, as `load_config` reads a file; `file` is what error texts call it.

    Raises:
        ConfigError: Something in it is wrong; one line for each problem, in file order.
    """
    # A program that has its own values needs none of this, nor the parser that it brings.
    from qbridge.config.overrides import apply_environment, apply_overrides
    from qbridge.config.yaml_source import read_yaml

    variables = os.environ if env is None else env
    document = read_yaml(text, file=file, env=variables)
    apply_environment(document, variables)
    apply_overrides(document, overrides or {})
    return _validated(document, backends)


def build_config(values: Mapping[str, Any], *, backends: Mapping[str, Backend[Any]] | None = None) -> Config:
    """Make a configuration of a program's own values, shaped as in YAML; the environment is not looked at.

    Args:
        values: The keys of `Config`; ready objects such as a `RetryPolicy` may stand for mappings.
        backends: Backends by name; None takes the installed ones.

    Raises:
        ConfigError: Something in it is wrong; one line for each problem.
    """
    return _validated(Document(content=dict(values)), backends)


def _validated(document: Document, backends: Mapping[str, Backend[Any]] | None) -> Config:
    known = installed_backends() if backends is None else backends
    while True:
        options = _options_models(document, known)
        try:
            config = Config.model_validate(document.content, strict=True, context={"backends": backends})
        except ValidationError as exc:
            from qbridge.config.problems import problems_of

            errors = exc.errors(include_url=False, include_input=False)
            if _take_texts(errors, document, options):
                continue
            for error in errors:
                if error["type"] == "missing" and error["loc"][-1:] == ("backend",):
                    error["ctx"] = {"known": f"known: {', '.join(known) or 'none'}"}
            problems = problems_of([*errors, *_loop_errors(document)], document, Config, options)
            # The cause is not kept: its text may show values that must not be shown.
            raise document.error(problems) from None
        if document.problems:
            raise document.error()
        return config


def _options_models(document: Document, backends: Mapping[str, Backend[Any]]) -> dict[str, type[BaseModel]]:
    """Return the options model of each queue whose backend is known."""
    named = _of_queues(document, "backend")
    return {name: backends[backend].options for name, backend in named.items() if backend in backends}


def _take_texts(errors: Sequence[ErrorDetails], document: Document, options: Mapping[str, type[BaseModel]]) -> bool:
    """Take back the typing of values from variables and flags where a text is wanted; return whether any was.

    A password of digits in `${PASSWORD}` reads as a number, and nobody thinks of quoting it.
    """
    from qbridge.config.problems import locate

    taken = 0
    for error in errors:
        if error["type"] in _TEXT_WANTED:
            taken += document.take_as_text(locate(error, Config, options).path)
    return taken > 0


def _loop_errors(document: Document) -> list[ErrorDetails]:
    """Return the errors of unknown loop groups, which the model looks for only when all else is right."""
    loops = document.content.get("loops", {"default": {}})
    if not isinstance(loops, Mapping):
        return []
    problems = unknown_loop_groups(_of_queues(document, "loops"), loops)
    return [
        ErrorDetails(type="unknown_loops", loc=("queues", name, "loops"), msg=why, input=None)
        for name, why in problems.items()
    ]


def _of_queues(document: Document, key: str) -> dict[str, str]:
    """Return what each queue says under a key, where it is a text."""
    queues = document.content.get("queues")
    said = {
        name: queue.get(key)
        for name, queue in (queues.items() if isinstance(queues, Mapping) else ())
        if isinstance(queue, Mapping)
    }
    return {name: value for name, value in said.items() if isinstance(value, str)}
