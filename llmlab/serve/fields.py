"""The fields of requests: what `/openapi.json` describes, and what is checked."""

from typing import Any

from llmlab.generate import SAMPLERS
from llmlab.serve.schema import Schema, nullable

MOST_STOPS = 16
MOST_CHOICES = 16
TOP = 20  # probabilities beside that of the chosen token
IGNORED = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key")  # for accounting

_TEXT: Schema = {"type": "string"}
_SHARED: dict[str, Schema] = {
    "model": {"type": "string", "description": "an id of /v1/models; the first if left out"},
    "stream": {"type": "boolean", "description": "server-sent events instead of one answer"},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
    "max_tokens": {"type": "integer", "minimum": 0, "description": "most tokens of an answer"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 100, "description": "0 is greedy"},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "n": {"type": "integer", "minimum": 1, "maximum": MOST_CHOICES, "description": "answers"},
    "stop": {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MOST_STOPS},
        ],
        "description": "texts before which an answer ends",
    },
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "logit_bias": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "description": "numbers added to the scores of token ids",
    },
    "sampler": {
        "anyOf": [_TEXT, {"type": "object", "required": ["type"], "properties": {"type": _TEXT}}],
        "description": "a sampler of llmlab by name, or a mapping with its type and arguments",
    },
    **{name: {"description": "accepted, and of no effect"} for name in IGNORED},
}
_CONTENT: Schema = {
    "anyOf": [
        _TEXT,
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"type": "string", "enum": ["text"]}, "text": _TEXT},
            },
        },
    ]
}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": _CONTENT,
    },
}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


def _own_arguments() -> dict[str, Schema]:
    """Return the arguments of llmlab's samplers that OpenAI's interface lacks."""
    kinds = {"int": "integer", "float": "number"}
    found: dict[str, Schema] = {}
    for name, parameter in SAMPLERS.signature("sample").items():
        kind = getattr(parameter.annotation, "__name__", str(parameter.annotation))
        if kind in kinds and name not in (*_SHARED, "num_samples", "vocab_size"):
            found[name] = {"type": kinds[kind], "description": "as in llmlab's sampler 'sample'"}
    return found


def own_arguments() -> list[str]:
    """Return the names of all fields that go to the sampler `sample` as they are."""
    taken = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
    return [*taken, *_own_arguments()]


def chat_schema() -> Schema:
    """Return the schema of a request for a chat's answer."""
    own: dict[str, Schema] = {
        "max_completion_tokens": _SHARED["max_tokens"],
        "logprobs": {"type": "boolean", "description": "log probabilities of the tokens"},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": TOP},
    }
    messages: Schema = {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": 10_000}
    return _request({"messages": messages}, own)


def completion_schema() -> Schema:
    """Return the schema of a request to continue a text."""
    many: Schema = {"type": "array", "minItems": 1, "maxItems": MOST_CHOICES}
    prompt: Schema = {
        "anyOf": [_TEXT, _IDS, {**many, "items": _TEXT}, {**many, "items": _IDS}],
        "description": "text or token ids, or several of them",
    }
    own: dict[str, Schema] = {
        "logprobs": {"type": "integer", "minimum": 0, "maximum": TOP},
        "echo": {"type": "boolean", "description": "the prompt before the answer"},
    }
    return _request({"prompt": prompt}, own)


def _request(required: dict[str, Schema], own: dict[str, Schema]) -> Schema:
    optional = {**_SHARED, **_own_arguments(), **own}
    fields: dict[str, Any] = {
        name: nullable(schema) if "type" in schema or "anyOf" in schema else schema
        for name, schema in optional.items()
    }
    return {"type": "object", "required": list(required), "properties": {**required, **fields}}
