"""The description of the interface, as `/openapi.json` gives it."""

from typing import Any

from llmlab import __version__
from llmlab.serve.schema import Schema

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_REFUSALS = {
    "400": "a field is wrong; `param` names it",
    "401": "the key is wrong or missing",
    "403": "a foreign Host or Origin",
    "404": "no such model",
    "408": "the body took too long",
    "413": "the body is too long",
    "415": "the body is not valid JSON",
    "429": "too many are waiting; Retry-After says how long",
}


def description(chat: Schema, completion: Schema) -> dict[str, Any]:
    """Return an OpenAPI description with the schemas that requests are checked against."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "llmlab", "version": __version__},
        "security": [{}, {"key": []}],
        "components": {
            "schemas": {"Chat": chat, "Completion": completion, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "paths": {
            "/v1/chat/completions": {"post": _post("Answer a chat", "Chat")},
            "/v1/completions": {"post": _post("Continue a text", "Completion")},
            "/v1/models": {"get": _get("List the models", "401", "403")},
            "/v1/models/{name}": {
                "get": _get("Describe a model", "401", "403", "404"),
                "parameters": [
                    {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
                ],
            },
            "/health": {"get": _get("Say that the server is alive", "403")},
        },
    }


def _post(summary: str, schema: str) -> dict[str, Any]:
    reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    kinds: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    kinds["text/event-stream"] = {"schema": {"type": "string"}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": reference}},
        "responses": {
            "200": {"description": "the answer", "content": kinds},
            **_errors(*_REFUSALS),
        },
    }


def _get(summary: str, *refusals: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    answer = {"200": {"description": "the answer", "content": content}}
    return {"summary": summary, "responses": {**answer, **_errors(*refusals)}}


def _errors(*statuses: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}
