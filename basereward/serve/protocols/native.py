"""Our own protocol: POST /score with a prompt, responses, images and videos."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from pydantic import BaseModel, ConfigDict, Field

from basereward.inference.rewards.reward_scale import Scale, scaled
from basereward.serve.scoring_service import ScoringService, body_schema


class ScoreBody(BaseModel):
    """The body of `POST /score`.

    >>> ScoreBody(prompt="2 + 2?", responses=["4"]).scale
    'raw'
    """

    model_config = ConfigDict(extra="forbid")
    prompt: str | list[dict[str, Any]] = Field(description="a text, or messages as for chat templates")
    responses: list[str | dict[str, Any] | list[dict[str, Any]]] = Field(description="responses to the prompt")
    images: list[str] = Field(default=[], description="data URIs, base64, allowed paths or allowed addresses")
    response_images: list[list[str]] = Field(default=[], description="for each response its images, as in `images`")
    videos: list[str | list[str] | dict[str, Any]] = Field(
        default=[], description="lists of frames, {frames, fps}, data URIs, allowed paths or addresses"
    )
    scale: Scale = Field(default="raw", description="of the scores")
    clip: float | None = Field(default=None, gt=0, description="largest absolute value of a score")


class ScoreAnswer(BaseModel):
    """The answer of `POST /score`.

    >>> ScoreAnswer(scores=[1.0], model="run", mean=0.0, std=1.0).scores
    [1.0]
    """

    scores: list[float]
    model: str
    mean: float | None
    std: float | None


def router(service: ScoringService) -> APIRouter:
    """The route of the protocol."""
    routes = APIRouter(tags=["native"])

    @routes.post("/score", openapi_extra=body_schema(ScoreBody))
    async def score(http: HTTPRequest) -> ScoreAnswer:
        """One score for each response to a prompt; higher is better."""
        body = await service.read(http, ScoreBody)
        scores = await service.score(
            http, body.prompt, body.responses, body.images, body.response_images, videos=body.videos
        )
        statistics = service.pool.info.get("scores", {})
        return ScoreAnswer(
            scores=scaled(scores, body.scale, statistics=statistics, clip=body.clip),
            model=service.model,
            mean=statistics.get("mean"),
            std=statistics.get("std"),
        )

    return routes
