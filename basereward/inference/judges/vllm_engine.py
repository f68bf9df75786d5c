"""vLLM in this process as a judge's engine: `pip install basereward[vllm]`, on a GPU.

The tests run without a GPU, so they cover only the error of a machine without vLLM. A vLLM server is used through
`Endpoint`, which they cover.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.inference.judges.engine import Answer, Arrived, Failed, Request, Written, several
from basereward.inference.judges.messages import chat_messages
from basereward.model.generation.generate import Writing

AT_ONCE = 256  # requests of a call: vLLM schedules them, and texts arrive when the call ends


class VLLMEngine:
    """Generates with `vllm.LLM.chat`.

    Args:
        path: hub id or folder.
        options: arguments of `vllm.LLM`, such as `tensor_parallel_size`.

    Raises:
        ModelError: vLLM is not installed.
    """

    def __init__(self, path: str, **options: Any) -> None:
        try:
            import vllm  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise ModelError(
                "vLLM is not installed: pip install basereward[vllm], or serve the model and give its address"
            ) from error
        self.name = path
        self.sampling: Any = vllm.SamplingParams
        self.llm: Any = vllm.LLM(model=path, **options)

    def write(self, asked: Iterable[Request], how: Writing, *, arrived: Arrived | None = None) -> Iterator[Answer]:
        """As `Engine.write`; vLLM forms the batches."""
        sampling = self.sampling(max_tokens=how.max_tokens, temperature=how.temperature, top_p=how.top_p, seed=how.seed)
        for requests in several(asked, AT_ONCE):
            ready, conversations = [], []
            for request in requests:
                try:
                    conversations.append(chat_messages(request.turns, request.images))
                except RowRejected as rejection:
                    yield Failed(request.id, f"{rejection.reason}: {rejection.detail}", 0, refused=True)
                else:
                    ready.append(request)
            for request, output in zip(ready, self.llm.chat(conversations, sampling), strict=True):
                (completion,) = output.outputs
                prompt_tokens = len(output.prompt_token_ids or ())
                written = Written(request.id, completion.text, prompt_tokens, len(completion.token_ids))
                if arrived is not None:
                    arrived(written)
                yield written
