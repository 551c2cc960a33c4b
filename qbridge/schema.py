"""The JSON Schema of the YAML file, with the options of every backend, for editors and for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from qbridge.backend import Backend
from qbridge.config import Config
from qbridge.config.model_keys import descriptions, key_names, summary
from qbridge.discovery import CORE_QUEUE_KEYS, installed_backends

__all__ = ["config_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

#: What a value may be instead of what it stands for, before variables are replaced.
_VARIABLE = {
    "description": "Holds ${NAME} or ${NAME:-default}, replaced by an environment variable before it is checked.",
    "type": "string",
    "pattern": r"\$\{[A-Za-z_]",
}
_VARIABLE_REFERENCE = {"$ref": "#/$defs/variable"}

#: Keywords that say something about a schema and check nothing.
_ANNOTATIONS = ("description", "default", "deprecated", "examples", "title")

#: Keywords with which a text is not just any text.
_NARROWING = frozenset({"const", "enum", "maxLength", "minLength", "pattern"})


def config_schema(backends: Mapping[str, Backend[Any]] | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the YAML file.

    Each queue is checked with the options of the backend that it names; unknown keys are refused everywhere. The
    result depends on nothing but the backends, not even on their order.

    Args:
        backends: Backends by name; None takes the installed ones.
    """
    known = dict(sorted((installed_backends() if backends is None else backends).items()))
    schema = _model_schema(Config, "")
    definitions: dict[str, Any] = schema.pop("$defs")
    queue = definitions.pop("QueueConfig")
    definitions.pop("BackendOptions", None)
    for name, backend in known.items():
        options = _model_schema(backend.options, f"{name}.")
        definitions |= options.pop("$defs", {})
        definitions[f"{name}.queue"] = _queue_of(queue, backend, options)
    definitions["QueueConfig"] = {
        "description": queue["description"],
        "type": "object",
        "required": ["backend"],
        "properties": {
            "backend": {
                "description": queue["properties"]["backend"]["description"],
                "anyOf": [{"enum": list(known)}, _VARIABLE_REFERENCE],
            }
        },
    }
    if known:  # an empty allOf is no schema
        definitions["QueueConfig"]["allOf"] = [
            {
                "if": {"properties": {"backend": {"const": name}}, "required": ["backend"]},
                "then": {"$ref": f"#/$defs/{name}.queue"},
            }
            for name in known
        ]
    definitions["variable"] = _VARIABLE
    return {"$schema": _DIALECT, "title": "qbridge configuration", **schema, "$defs": dict(sorted(definitions.items()))}


def _queue_of(queue: Mapping[str, Any], backend: Backend[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a queue of one backend: the core's keys and the backend's options side by side."""
    own = {key: queue["properties"][key] for key in CORE_QUEUE_KEYS}
    own["backend"] = {"description": own["backend"]["description"], "const": backend.name}
    return {
        "description": backend.summary,
        "type": "object",
        "required": ["backend", *options.get("required", [])],
        "properties": {**own, **options.get("properties", {})},
        "additionalProperties": False,
    }


def _model_schema(model: type[BaseModel], prefix: str) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}", schema_generator=_Generator)
    definitions = {f"{prefix}{name}": _or_variable(_for_yaml(part)) for name, part in schema.pop("$defs", {}).items()}
    return {**_for_yaml(schema), "$defs": definitions}


class _Generator(GenerateJsonSchema):
    """pydantic's generator, with the descriptions that stand in our docstrings."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        generated = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        generated.pop("title", None)
        generated["description"] = summary(model)
        for key, name in zip(key_names(model), model.model_fields, strict=True):
            if (described := descriptions(model).get(name)) and key in generated.get("properties", {}):
                generated["properties"][key] = {"description": described, **generated["properties"][key]}
        return generated

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}  # a type that JSON Schema can't describe is checked by its model alone


def _for_yaml(schema: Any) -> Any:
    """Return a schema in which every value may also be a text with a variable, and no mapping takes unknown keys."""
    if not isinstance(schema, dict):
        return schema
    result = {keyword: part for keyword, part in schema.items() if keyword != "discriminator"}
    for keyword in ("properties", "patternProperties"):
        if keyword in result:
            result[keyword] = {key: _or_variable(_for_yaml(part)) for key, part in result[keyword].items()}
    for keyword in ("items", "additionalProperties"):
        if keyword in result:
            result[keyword] = _or_variable(_for_yaml(result[keyword]))
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if keyword in result:
            result[keyword] = [_for_yaml(part) for part in result[keyword]]
    if "patternProperties" in result:
        result.setdefault("additionalProperties", False)
    return result


def _or_variable(schema: Any) -> Any:
    """Return a schema that takes a text with a variable, too, unless it takes every text or takes none at all."""
    if not isinstance(schema, dict) or "const" in schema or "$ref" in schema:
        return schema
    alternatives = schema.get("anyOf", [schema])
    kinds = [part.get("type") for part in alternatives]
    takes_any_text = any(part.get("type") == "string" and _NARROWING.isdisjoint(part) for part in alternatives)
    if takes_any_text or "oneOf" in schema or set(kinds) <= {"object", "array"}:
        return schema
    said = {keyword: schema[keyword] for keyword in _ANNOTATIONS if keyword in schema}
    checks = {keyword: part for keyword, part in schema.items() if keyword not in _ANNOTATIONS}
    alternatives = checks.get("anyOf", [checks])
    return {**said, "anyOf": [*alternatives, _VARIABLE_REFERENCE]} if checks else schema
