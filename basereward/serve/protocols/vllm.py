"""Protocols of vLLM's pooling models, as verl and others use them: /classify, /pooling, /v1/embeddings, /v1/rerank."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from pydantic import BaseModel, ConfigDict, Field

from basereward.errors import DataError
from basereward.inference.rewards.reward_scale import scaled
from basereward.serve.reading.rendered import split_conversation
from basereward.serve.scoring_service import ScoringService, body_schema


class PoolingBody(BaseModel):
    """The body of `/classify`, `/pooling` and `/v1/embeddings`: rendered conversations, or one as messages.

    >>> PoolingBody(input="text").use_activation is None
    True
    """

    model_config = ConfigDict(extra="ignore")
    model: str | None = None
    input: str | list[str] | None = Field(default=None, description="conversations as a chat template renders them")
    messages: list[dict[str, Any]] | None = Field(default=None, description="a conversation; its last turn is scored")
    use_activation: bool | None = Field(default=None, description="false: raw scores; otherwise their sigmoid")


class RerankBody(BaseModel):
    """The body of `/v1/rerank`.

    >>> RerankBody(query="2 + 2?", documents=["4"]).top_n
    0
    """

    model_config = ConfigDict(extra="ignore")
    model: str | None = None
    query: str
    documents: list[str]
    top_n: int = Field(default=0, ge=0, description="how many are returned; 0: all")


def router(service: ScoringService) -> APIRouter:
    """The routes of the protocols."""
    routes = APIRouter(tags=["vLLM"])

    async def score_inputs(http: HTTPRequest) -> tuple[PoolingBody, list[float]]:
        body = await service.read(http, PoolingBody)
        scored = await service.score_all(http, [(*_split(entry), ()) for entry in _inputs(body)])
        return body, [scores[0] for scores in scored]

    @routes.post("/classify", openapi_extra=body_schema(PoolingBody))
    async def classify(http: HTTPRequest) -> dict[str, Any]:
        """A probability, or with `use_activation: false` the score, of each input."""
        body, scores = await score_inputs(http)
        if body.use_activation is not False:
            scores = scaled(scores, "sigmoid", statistics={})
        data = [
            {"index": index, "label": "LABEL_0", "probs": [score], "num_classes": 1}
            for index, score in enumerate(scores)
        ]
        return _answer("classify", service.model, data)

    @routes.post("/pooling", openapi_extra=body_schema(PoolingBody))
    async def pooling(http: HTTPRequest) -> dict[str, Any]:
        """The score of each input."""
        _, scores = await score_inputs(http)
        data = [{"index": index, "object": "pooling", "data": [score]} for index, score in enumerate(scores)]
        return _answer("pool", service.model, data)

    @routes.post("/v1/embeddings", openapi_extra=body_schema(PoolingBody))
    async def embeddings(http: HTTPRequest) -> dict[str, Any]:
        """The score of each input, as an embedding of one number; verl reads it from SGLang in this form."""
        _, scores = await score_inputs(http)
        data = [{"index": index, "object": "embedding", "embedding": [score]} for index, score in enumerate(scores)]
        return _answer("embd", service.model, data)

    @routes.post("/v1/rerank", openapi_extra=body_schema(RerankBody))
    async def rerank(http: HTTPRequest) -> dict[str, Any]:
        """The documents as responses to the query, best first."""
        body = await service.read(http, RerankBody)
        scores = await service.score(http, body.query, body.documents)
        ranked = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n or None]
        results = [
            {"index": index, "document": {"text": body.documents[index]}, "relevance_score": scores[index]}
            for index in ranked
        ]
        return {"id": f"rerank-{uuid.uuid4().hex}", "model": service.model, "results": results}

    return routes


def _answer(kind: str, model: str, data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    # Tokens are not counted: the server does not tokenize.
    usage = {"prompt_tokens": 0, "total_tokens": 0, "completion_tokens": 0}
    name = f"{kind}-{uuid.uuid4().hex}"
    return {"id": name, "object": "list", "created": int(time.time()), "model": model, "data": data, "usage": usage}


def _inputs(body: PoolingBody) -> list[str | list[dict[str, Any]]]:
    """
    Raises:
        DataError: there is no input, or both forms.
    """
    if (body.input is None) == (body.messages is None):
        raise DataError("give either `input` or `messages`")
    if body.messages is not None:
        return [body.messages]
    return [body.input] if isinstance(body.input, str) else list(body.input or [])


def _split(entry: str | list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The prompt of an input, and its response in a list.

    Raises:
        DataError: it does not end with a turn of the assistant.
    """
    if isinstance(entry, str):
        prompt, response = split_conversation(entry)
        return prompt, [response]
    if len(entry) < 2 or entry[-1].get("role") != "assistant":
        raise DataError("the messages do not end with a turn of the assistant, which is what is scored")
    return entry[:-1], [[entry[-1]]]
