"""Models on loopback, over real HTTP: the APIs of OpenAI (and what is compatible with it), of Anthropic and of Ollama.

with model_server(said(claim(…))) as model: ...  # model.requests has what left the machine
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

from tests.receivers import Answer, HttpReceiver, Received, http_receiver

TOKENS_IN, TOKENS_OUT = 900, 120


def claim(says: str, *cites: str, kind: str = "cause", quotes: tuple[str, ...] = (), topic: str = "") -> dict[str, Any]:
    return {"kind": kind, "says": says, "cites": list(cites), "quotes": list(quotes), "topic": topic}


def answer_of(*claims: dict[str, Any], confidence: float = 0.8, **fields: Any) -> dict[str, Any]:
    """The structured answer of a model."""
    steps = fields.pop("steps", [])
    return {
        "summary": fields.pop("summary", claims[0]["says"] if claims else "Nothing is known"),
        "claims": list(claims),
        "recommendations": steps,
        "confidence": confidence,
        **fields,
    }


def step(title: str, *cites: str, actions: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {"title": title, "cites": list(cites), "actions": list(actions), "priority": "high", **fields}


def said(answer: dict[str, Any]) -> Answer:
    """OpenAI's form of an answer: a call of the tool `answer`."""
    return calls(("answer", answer))


def calls(*tools: tuple[str, dict[str, Any]]) -> Answer:
    """OpenAI's form of an answer that calls tools."""
    called = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(tools)
    ]
    return completion({"role": "assistant", "content": None, "tool_calls": called}, "tool_calls")


def wrote(text: str) -> Answer:
    """OpenAI's form of an answer in words."""
    return completion({"role": "assistant", "content": text}, "stop")


def completion(message: dict[str, Any], finish: str) -> Answer:
    return Answer.json(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_750_000_000,
            "model": "small-model",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {
                "prompt_tokens": TOKENS_IN,
                "completion_tokens": TOKENS_OUT,
                "total_tokens": TOKENS_IN + TOKENS_OUT,
            },
        }
    )


def anthropic_said(answer: dict[str, Any]) -> Answer:
    """Anthropic's form of an answer."""
    return Answer.json(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-small",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "answer", "input": answer}],
            "stop_reason": "tool_use",
            "stop_sequence": None,
            "usage": {"input_tokens": TOKENS_IN, "output_tokens": TOKENS_OUT},
        }
    )


def model_server(
    *answers: int | Answer, default: int | Answer = 500, judge: Callable[[Received], Answer] | None = None
) -> closing[HttpReceiver]:
    """A model: it answers with these, in order, then with `default`."""
    return http_receiver(*answers, default=default, judge=judge)


def texts_of(request: Received) -> str:
    """All that a request says to the model."""
    return json.dumps(request.json, ensure_ascii=False)
