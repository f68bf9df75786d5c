"""vLLM in this process as a judge's engine: `pip install basereward[vllm]`, on a GPU.

The tests run without a GPU, so they cover only the error of a machine without vLLM. A vLLM server is used through
`Endpoint`, which they cover.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.inference.judges.engine import Answer, Completion, Failed, OnCompletion, Request, several
from basereward.inference.judges.messages import chat_messages
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.seeded_sampling import text_seed

# Requests of one call. vLLM schedules them itself, so more are faster; but texts arrive only when the call ends, and an
# interruption loses the texts of the running call.
REQUESTS_PER_CALL = 256


class VLLMEngine:
    """Generates with `vllm.LLM.chat`.

    Args:
        path: hub id or folder.
        options: arguments of `vllm.LLM`, such as `tensor_parallel_size`.

    Raises:
        ModelError: vLLM is not installed.
    """

    def __init__(self, path: str, **options: Any) -> None:
        # An extra that needs a GPU, so it is imported only when it is used.
        try:
            import vllm  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise ModelError(
                "vLLM is not installed: pip install basereward[vllm], or serve the model and give its address"
            ) from error
        self.name = path
        self.sampling_params: Any = vllm.SamplingParams
        self.llm: Any = vllm.LLM(model=path, **options)

    def generate(
        self, requests: Iterable[Request], sampling: SamplingParams, *, on_completion: OnCompletion | None = None
    ) -> Iterator[Answer]:
        """As `Engine.generate`; vLLM forms the batches."""
        options = {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
        for part in several(requests, REQUESTS_PER_CALL):
            accepted, conversations = [], []
            for request in part:
                try:
                    conversations.append(chat_messages(request.turns, request.images))
                except RowRejected as rejection:
                    yield Failed(request.id, f"{rejection.reason}: {rejection.detail}", 0, refused=True)
                else:
                    accepted.append(request)
            # vLLM draws the tokens of a request from its own seed; with one seed for all, their draws would be equal.
            seeds = [text_seed(sampling.seed, request.id) for request in accepted]
            params = [self.sampling_params(**options, seed=seed) for seed in seeds]
            for request, output in zip(accepted, self.llm.chat(conversations, params), strict=True):
                # One completion, because `sampling.samples` is 1.
                (generated,) = output.outputs
                prompt_tokens = len(output.prompt_token_ids or ())
                completion = Completion(request.id, generated.text, prompt_tokens, len(generated.token_ids))
                if on_completion is not None:
                    on_completion(completion)
                yield completion
