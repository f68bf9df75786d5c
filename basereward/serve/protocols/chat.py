"""OpenAI's chat completions for models with a generative head: POST /v1/chat/completions.

The text is what the judge writes after the conversation, as `basereward eval --judge` and other clients of judges ask
for it; the prompt with the question and the answers is theirs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, HTTPException
from fastapi import Request as HTTPRequest
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from basereward.errors import BaseRewardError, DataError
from basereward.serve.messages import TextSettings, WrittenText
from basereward.serve.scoring_service import ScoringService, body_schema, error_status

MAX_TOKENS = 1024
"""Tokens of a text whose request names no limit."""
MAX_SEED = 2**63 - 1


class ChatBody(BaseModel):
    """The body of `POST /v1/chat/completions`.

    A key that would change the text and is not listed here is refused. Without a temperature, the text is the most
    likely one and not a sample as at OpenAI: it is a verdict.

    >>> ChatBody(messages=[{"role": "user", "content": "Hi"}]).temperature
    0.0
    """

    model_config = ConfigDict(extra="forbid")
    messages: list[dict[str, Any]] = Field(
        min_length=1, description="text, and `image_url` parts; the last of the user"
    )
    model: str | None = Field(default=None, description="any name; the server has one model")
    max_tokens: int | None = Field(default=None, ge=1, description="of the text")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="another name of `max_tokens`")
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="0: the most likely tokens")
    top_p: float | None = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=0, ge=0, le=MAX_SEED, description="of sampling")
    n: int | None = Field(default=1, description="1 is allowed")
    stream: bool | None = Field(default=False, description="false is allowed")
    user: str | None = Field(default=None, description="not read")

    def settings(self, *, limit: int) -> TextSettings:
        """How the text is written.

        Args:
            limit: the largest number of tokens of a text.

        Raises:
            DataError: the request asks for a stream, for several texts, or for a text that is too long.

        >>> ChatBody(messages=[{}], max_completion_tokens=9).settings(limit=10)
        TextSettings(max_tokens=9, temperature=0.0, top_p=1.0, seed=0)
        """
        _check_supported(self)
        max_tokens = self.max_completion_tokens or self.max_tokens or min(MAX_TOKENS, limit)
        if max_tokens > limit:
            raise DataError(f"max_tokens: {max_tokens:,}; at most {limit:,} are allowed")
        temperature = 0.0 if self.temperature is None else self.temperature
        return TextSettings(max_tokens, temperature, 1.0 if self.top_p is None else self.top_p, self.seed or 0)


def _check_supported(body: ChatBody) -> None:
    """
    Raises:
        DataError: the request asks for a stream, for several texts, or has two limits.
    """
    if body.stream:
        raise DataError("stream: true is not supported: the text of a judge is sent when it is complete")
    if body.n not in (None, 1):
        raise DataError(f"n: {body.n} is not supported; send {body.n} requests, each with another seed")
    if None not in (body.max_tokens, body.max_completion_tokens):
        raise DataError("max_tokens and max_completion_tokens are two names of one limit; give one")


def router(service: ScoringService) -> APIRouter:
    """The route of the protocol."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post("/v1/chat/completions", openapi_extra=body_schema(ChatBody))
    async def chat_completions(http: HTTPRequest) -> JSONResponse:
        """The text that the judge writes after a conversation."""
        try:
            text = await write(http)
        except HTTPException as error:
            return _error(str(error.detail), error.status_code, error.headers)
        except BaseRewardError as error:
            return _error(str(error), *error_status(error))
        return JSONResponse(_completion(text, model=service.model))

    async def write(http: HTTPRequest) -> WrittenText:
        body = await service.read(http, ChatBody)
        if service.pool.info["kind"] != "generative":
            raise HTTPException(
                HTTPStatus.NOT_FOUND,
                f"the model {service.model} ({service.pool.info['kind']}) writes no text; chat completions need a "
                "model with a generative head. Send prompts and responses to /score",
            )
        settings = body.settings(limit=service.settings.max_new_tokens)
        return await service.write(http, body.messages, settings)

    return routes


def _completion(text: WrittenText, *, model: str) -> dict[str, Any]:
    """The body of the answer."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text.text},
        "logprobs": None,
        "finish_reason": "stop" if text.is_complete else "length",
    }
    usage = {
        "prompt_tokens": text.prompt_tokens,
        "completion_tokens": text.tokens,
        "total_tokens": text.prompt_tokens + text.tokens,
    }
    name = f"chatcmpl-{uuid.uuid4().hex}"
    answer = {"id": name, "object": "chat.completion", "created": int(time.time()), "model": model}
    return answer | {"choices": [choice], "usage": usage}


def _error(message: str, status: int, headers: Mapping[str, str] | None) -> JSONResponse:
    """An error in the form of OpenAI, and with `detail` as those of the other paths of this server."""
    kind = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": error, "detail": message}, status, headers)
