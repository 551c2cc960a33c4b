"""What pydantic found wrong, as problems of a document: located by file and line, one for each value, in order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from qbridge.config.document import MOST_PROBLEMS, Document, KeyPath, Place, Problem, format_path
from qbridge.config.model_keys import find_key
from qbridge.config.wording import Finding, expected_of, wording
from qbridge.discovery import CORE_QUEUE_KEYS

__all__ = ["locate", "problems_of"]


def problems_of(
    errors: Iterable[ErrorDetails],
    document: Document,
    model: type[BaseModel],
    options: Mapping[str, type[BaseModel]],
) -> Sequence[Problem]:
    """Return one problem for each value that pydantic refuses, except where the document's own problems tell already.

    Args:
        errors: What validating `document.content` with `model` found.
        document: The values and their places.
        model: The model of the whole document.
        options: Queue name → the options model of its backend.
    """
    findings: dict[object, Finding] = {}
    for error in errors:
        finding = locate(error, model, options)
        if document.is_broken(finding.path):
            continue
        # A union's members each say what they expect; people want one sentence about the value.
        expected = expected_of(error, finding.found)
        key: object = finding.path if expected else (finding.path, error["type"], error["msg"])
        finding = findings.setdefault(key, finding)
        if expected and expected not in finding.expected:
            finding.expected.append(expected)
    ordered = sorted(
        ((_place(document, finding.path), finding) for finding in findings.values()), key=lambda pair: pair[0].rank
    )
    # What can't be told anyway is only counted: wording thousands of problems would take seconds.
    return [
        Problem(place, wording(document, finding) if index < MOST_PROBLEMS else format_path(finding.path))
        for index, (place, finding) in enumerate(ordered)
    ]


def locate(error: ErrorDetails, model: type[BaseModel], options: Mapping[str, type[BaseModel]]) -> Finding:
    """Return what one error of pydantic is about, and where in the document it is; arguments as for `problems_of`."""
    location: tuple[str | int, ...] = error["loc"]
    if location[-1:] == ("[key]",):
        location = location[:-1]
    if location[:1] == ("queues",) and location[2:3] == ("options",) and location[1] in options:
        # In the document the options stand beside the core's keys of the queue.
        found = find_key(options[str(location[1])], location[3:])
        is_secret = found.is_secret
        siblings = (*CORE_QUEUE_KEYS, *found.siblings) if len(found.path) == 1 else found.siblings
        found = replace(found, path=(*location[:2], *found.path), siblings=siblings)
    else:
        # The core has one section of secrets; words in keys would hide the values of queues that are named so.
        found, is_secret = find_key(model, location), location[:1] == ("signing",)
    path: KeyPath = found.path
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path = (*path, error["ctx"]["discriminator"].strip("'"))
    return Finding(error, found, path, is_secret=is_secret)


def _place(document: Document, path: KeyPath) -> Place:
    """Return where to look; of a mapping, what was laid over it is likelier wrong than what the file says."""
    value: Any = document.value_at(path)
    for key in value if isinstance(value, Mapping) else ():
        place = document.places.get((*path, key))
        if place is not None and place.is_override:
            return place
    return document.place_of(path)
