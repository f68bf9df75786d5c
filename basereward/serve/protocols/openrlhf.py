"""The protocol of OpenRLHF's remote reward models: POST /get_reward."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from pydantic import BaseModel, ConfigDict, Field

from basereward.errors import DataError
from basereward.serve.reading.rendered import parse_prompt, split_conversation, strip_end
from basereward.serve.scoring_service import ScoringService, body_schema


class RewardBody(BaseModel):
    """The body of `POST /get_reward`; OpenRLHF sends the labels of its data too, which are not needed.

    >>> RewardBody(query=["a"]).prompts
    []
    """

    model_config = ConfigDict(extra="ignore")
    query: list[str] = Field(description="prompts with responses, as the chat template of the policy renders them")
    prompts: list[str] = Field(default=[], description="the prompts alone; without them, the last turn is the response")


def router(service: ScoringService) -> APIRouter:
    """The route of the protocol."""
    routes = APIRouter(tags=["OpenRLHF"])

    @routes.post("/get_reward", openapi_extra=body_schema(RewardBody))
    async def get_reward(http: HTTPRequest) -> dict[str, Any]:
        """One reward for each query."""
        body = await service.read(http, RewardBody)
        if body.prompts and len(body.prompts) != len(body.query):
            raise DataError(f"{len(body.query)} queries and {len(body.prompts)} prompts; give one for each")
        split = [split_query(query, *body.prompts[place : place + 1]) for place, query in enumerate(body.query)]
        scored = await service.score_all(http, [(prompt, [response], ()) for prompt, response in split])
        rewards = [scores[0] for scores in scored]
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    return routes


def split_query(query: str, prompt: str | None = None) -> tuple[list[dict[str, str]], str]:
    """The messages of a prompt, and the response.

    Args:
        query: prompt and response.
        prompt: the prompt alone; None: the last turn of the query is the response.

    Raises:
        DataError: the query does not begin with the prompt, or is of an unknown template.

    >>> split_query("2 + 2?4", "2 + 2?")
    ([{'role': 'user', 'content': '2 + 2?'}], '4')
    """
    if prompt is None:
        return split_conversation(query)
    if not query.startswith(prompt):
        raise DataError("a query does not begin with its prompt")
    return parse_prompt(prompt), strip_end(query[len(prompt) :])
