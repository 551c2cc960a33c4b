"""What a pydantic model says of its keys: names, descriptions, units, and which hold secrets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Secret, SecretBytes, SecretStr

from qbridge.units import parse_duration, parse_size

__all__ = ["Found", "descriptions", "find_key", "key_names", "summary", "union_tags"]

#: Words of an option's name that make its value a secret, even where its type doesn't say so.
_SECRET_WORDS = frozenset(
    {"auth", "credential", "credentials", "dsn", "passphrase", "passwd", "password", "pwd", "secret", "token"}
    | {"uri", "url"}  # may hold user:password
)

_ATTRIBUTE = re.compile(r"    (\w+): (.*)")


@dataclass(frozen=True, slots=True)
class Found:
    """What a model says of the place that an error is at.

    Attributes:
        path: The error's location without the labels that pydantic adds for members of unions.
        annotation: The type of the value there; Any if the model doesn't say.
        metadata: What is annotated to that type.
        siblings: Keys that the mapping around the place takes; () if it takes any, or is none.
        description: What the model says of it; "" if nothing.
        discriminator: The key that chooses a member, of a union of models; "" otherwise.
    """

    path: tuple[str | int, ...]
    annotation: Any = Any
    metadata: tuple[Any, ...] = ()
    siblings: tuple[str, ...] = ()
    description: str = ""
    discriminator: str = ""

    @property
    def is_secret(self) -> bool:
        """The value must never be shown: by its type, or by a word in its key's name."""
        words = (word for key in self.path if isinstance(key, str) for word in re.split(r"[^a-z]+", key.lower()))
        return _holds_secret(self.annotation) or not _SECRET_WORDS.isdisjoint(words)

    @property
    def unit(self) -> Literal["duration", "size"] | None:
        """How people write the value: a duration like 25s or a size like 10MiB."""
        readers = {entry.func for entry in self.metadata if isinstance(entry, BeforeValidator)}
        return "duration" if parse_duration in readers else "size" if parse_size in readers else None


def key_names(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys that a model takes, in the order of its fields."""
    return tuple(
        field.validation_alias if isinstance(field.validation_alias, str) else name
        for name, field in model.model_fields.items()
    )


def summary(model: type[BaseModel]) -> str:
    """Return the first paragraph of a model's docstring on one line; "" if it has none of its own."""
    text = inspect.cleandoc(model.__dict__.get("__doc__") or "")
    return " ".join(text.partition("\n\n")[0].split())


@lru_cache(maxsize=256)
def descriptions(model: type[BaseModel]) -> Mapping[str, str]:
    """Return what is said of each field: its `description`, or its line under `Attributes:` in a docstring."""
    found: dict[str, str] = {}
    for ancestor in reversed(model.__mro__):
        name = ""
        section = inspect.cleandoc(ancestor.__dict__.get("__doc__") or "").partition("\nAttributes:\n")[2]
        for line in section.splitlines():
            if line and not line.startswith("    "):
                break
            if match := _ATTRIBUTE.fullmatch(line):
                name, found[match[1]] = match[1], match[2].strip()
            elif name and line.strip():
                found[name] += f" {line.strip()}"
    found.update({name: field.description for name, field in model.model_fields.items() if field.description})
    return {name: found[name] for name in model.model_fields if name in found}


def find_key(annotation: Any, location: Sequence[str | int]) -> Found:
    """Follow the location of a pydantic error, from a model or another type to what the error is about."""
    found = Found((), annotation)
    for label in location:
        annotation, metadata = _unwrapped(found.annotation)
        if get_origin(annotation) in (Union, UnionType):
            # pydantic puts the member of a union it tried between the keys of the path.
            found = replace(found, annotation=_member(annotation, label), metadata=metadata)
        else:
            found = _step(found.path, annotation, label)
    annotation, metadata = _unwrapped(found.annotation)
    return replace(found, annotation=annotation, metadata=(*found.metadata, *metadata))


def union_tags(found: Found) -> tuple[str, ...]:
    """Return the values that choose a member of a union of models; () if it is no such union."""
    members = [_unwrapped(member)[0] for member in get_args(found.annotation)] if found.discriminator else []
    fields = [member.model_fields[found.discriminator] for member in members]
    return tuple(str(tag) for field in fields for tag in _literals(field.annotation))


def _step(path: tuple[str | int, ...], annotation: Any, label: str | int) -> Found:
    path = (*path, label)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        siblings = key_names(annotation)
        for name, (key, field) in zip(siblings, annotation.model_fields.items(), strict=True):
            if label in (name, key):
                described, tag = descriptions(annotation).get(key, ""), field.discriminator
                tag = tag if isinstance(tag, str) else ""
                return Found(path, field.annotation, tuple(field.metadata), siblings, described, tag)
        return Found(path, siblings=siblings)
    arguments = get_args(annotation)
    if arguments and get_origin(annotation) not in (Literal, None):
        # The values of a mapping, or the items of a list.
        return Found(path, arguments[-1] if isinstance(label, str) else arguments[0])
    return Found(path)


def _unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without `Annotated` and `None`, and what was annotated to it."""
    metadata: tuple[Any, ...] = ()
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *further = get_args(annotation)
            metadata = (*metadata, *further)
            continue
        if get_origin(annotation) in (Union, UnionType):
            members = [member for member in get_args(annotation) if member is not NoneType]
            if len(members) == 1:
                annotation = members[0]
                continue
        return annotation, metadata


def _member(union: Any, label: str | int) -> Any:
    """Return the member of a union that pydantic's label means; Any if it is no model."""
    for member in get_args(union):
        model, _ = _unwrapped(member)
        if inspect.isclass(model) and issubclass(model, BaseModel):
            tags = {tag for field in model.model_fields.values() for tag in _literals(field.annotation)}
            if label == model.__name__ or label in tags:
                return model
    return Any


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _holds_secret(annotation: Any) -> bool:
    if inspect.isclass(annotation) and issubclass(annotation, (SecretStr, SecretBytes, Secret)):
        return True
    return any(_holds_secret(part) for part in get_args(annotation))
