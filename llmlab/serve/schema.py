"""The part of JSON Schema that requests need: what is described is what is checked."""

from math import isfinite
from typing import Any

from llmlab.serve.errors import RequestError

Schema = dict[str, Any]

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
_NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "null": "null",
}


def check(value: Any, schema: Schema, where: str = "") -> None:
    """Raise a `RequestError` with the name of the first field that doesn't fit.

    Knows type, enum, anyOf, minimum, maximum, exclusiveMinimum, minLength, minItems, maxItems,
    items, properties, required and additionalProperties.
    """
    problem = _problem(value, schema, where)
    if problem is not None:
        path, text = problem
        raise RequestError(f"{path or 'the body'}: {text}", path or None)


def nullable(schema: Schema) -> Schema:
    """Return a schema that takes null, too."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _problem(value: Any, schema: Schema, where: str) -> tuple[str, str] | None:
    if "anyOf" in schema:
        found = [_problem(value, each, where) for each in schema["anyOf"]]
        if None in found:
            return None
        deeper = [each for each in found if each and each[0] != where]
        return deeper[0] if deeper else (where, f"expected {_expected(schema)}")
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return where, f"expected {_expected(schema)}, found {_found(value)}"
    if "enum" in schema and value is not None and value not in schema["enum"]:
        return where, f"expected one of {', '.join(schema['enum'])}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, schema, where)
    if isinstance(value, str) and len(value) < schema.get("minLength", 0):
        return where, "is empty"
    if isinstance(value, list):
        return _list(value, schema, where)
    return _object(value, schema, where) if isinstance(value, dict) else None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _number(value: float, schema: Schema, where: str) -> tuple[str, str] | None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if not isfinite(value):
        return where, "must be finite"
    if (low is not None and value < low) or (high is not None and value > high):
        reach = f"at least {low}" if high is None else f"{low} to {high}"
        return where, f"must be {reach}, found {value:.12g}"
    above = schema.get("exclusiveMinimum")
    if above is not None and value <= above:
        return where, f"must be more than {above}, found {value:.12g}"
    return None


def _list(value: list[Any], schema: Schema, where: str) -> tuple[str, str] | None:
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if len(value) < low:
        return where, "is empty" if low == 1 else f"must have at least {low} items"
    if len(value) > high:
        return where, f"must have at most {high} items, found {len(value)}"
    for n, item in enumerate(value) if "items" in schema else ():
        if problem := _problem(item, schema["items"], f"{where}[{n}]"):
            return problem
    return None


def _object(value: dict[str, Any], schema: Schema, where: str) -> tuple[str, str] | None:
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where}.{name}".lstrip("."), "missing"
    for name, item in value.items():
        own = known.get(name, rest if isinstance(rest, dict) else None)
        if own is not None:
            path = f"{where}.{name}".lstrip(".")
            if problem := _problem(item, own, path[:200]):
                return problem
    return None


def _expected(schema: Schema) -> str:
    parts = schema.get("anyOf", [schema])
    kinds: list[str] = []
    for part in parts:
        own = part.get("type", [])
        kinds += [own] if isinstance(own, str) else own
    return " or ".join(dict.fromkeys(_NAMES[kind] for kind in kinds if kind != "null"))


def _found(value: Any) -> str:
    for kind in ("null", "boolean", "string", "array", "object", "number"):
        if _is(value, kind):
            return _NAMES[kind]
    return "something else"
