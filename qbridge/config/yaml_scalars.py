"""Plain YAML scalars: what type a text has, and what `${VAR}` in it stands for.

Texts are typed by the core schema of YAML 1.2. YAML 1.1, which PyYAML follows by itself, reads `on`, `yes` and `no` as
booleans, `1:30` as the number 90 and `010` as 8, which nobody means in a configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["SURROGATE", "Substitution", "substitute", "typed_plain_scalar"]

#: Half a character: escapes in YAML and bytes in the environment can make one, nothing can write it out.
SURROGATE = re.compile("[\ud800-\udfff]")

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)

#: Python itself refuses to read a number of more than 4300 digits.
_LARGEST_INTEGER = 2**63 - 1
_MOST_DIGITS = 64

#: `$${` is a literal `${`; anything after `${` up to the first `}` is a reference, well written or not.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)(?P<end>\}?)")
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-(?P<default>.*))?", re.DOTALL)


class Substitution(NamedTuple):
    """A text after its `${VAR}` references were replaced.

    Attributes:
        text: The text with the values in it.
        variables: Names of the variables it refers to, in order, each once; () if there are none.
        problems: What is wrong with the references; a text with problems must not be used.
    """

    text: str
    variables: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def typed_plain_scalar(text: str) -> str | int | float | bool | None:
    """Return what an unquoted scalar means by the core schema of YAML 1.2; a text if it is nothing else.

    Whole numbers beyond 63 bits stay texts: no setting is that large, but an account number may be.
    """
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INTEGER.fullmatch(text):
        number = _integer(text)
        return text if number is None else number
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def substitute(text: str, env: Mapping[str, str]) -> Substitution:
    """Replace `${NAME}` and `${NAME:-default}` by values of `env`; `$${` becomes a literal `${`.

    The default is taken when the variable is unset or empty. Values are not looked at again, so a value may contain
    `${`. References don't nest, and nothing is ever executed.
    """
    if "${" not in text:
        return Substitution(text)
    variables: dict[str, None] = {}
    problems: list[str] = []

    def value_of(match: re.Match[str]) -> str:
        body = match["body"]
        if body is None:
            return "${"
        reference = _BODY.fullmatch(body)
        if reference is None or not match["end"]:
            problems.append(
                "a ${ has no name and } after it: write ${NAME} or ${NAME:-default}, or $${ for a literal ${"
            )
            return ""
        name, default = reference["name"], reference["default"]
        variables[name] = None
        if default is not None and "${" in default:
            problems.append(f"the default of ${{{name}}} holds another reference; references don't nest")
            return ""
        value = env.get(name)
        if value or (value is not None and default is None):
            return value
        if default is None:
            problems.append(f"environment variable {name} is not set: set it, or write ${{{name}:-default}}")
            return ""
        return default

    replaced = _REFERENCE.sub(value_of, text)
    return Substitution(replaced, tuple(variables), tuple(problems))


def _integer(text: str) -> int | None:
    if len(text) > _MOST_DIGITS:
        return None
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    number = int(text[2:] if base != 10 else text, base)
    return number if abs(number) <= _LARGEST_INTEGER else None
