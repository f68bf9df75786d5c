"""vLLM in this process as a judge's engine: `pip install basereward[vllm]`, on a GPU.

Nothing here is run by the tests, which have no GPU, but the error of a machine without vLLM. A vLLM server is used as
an `Endpoint`, which they do run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.inference.judges.engine import Answer, Arrived, Failed, Request, Written, several
from basereward.inference.judges.messages import chat_messages
from basereward.model.generation.generate import Writing

AT_ONCE = 256


class VLLMEngine:
    """Writes with `vllm.LLM.chat`.

    Args:
        path: hub id or folder.
        options: arguments of `vllm.LLM`, as `tensor_parallel_size`.

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
        """As `Engine.write`; vLLM batches by itself."""
        sampling = self.sampling(max_tokens=how.max_tokens, temperature=how.temperature, top_p=how.top_p, seed=how.seed)
        for some in several(asked, AT_ONCE):
            ready, conversations = [], []
            for request in some:
                try:
                    conversations.append(chat_messages(request.turns, request.images))
                except RowRejected as loss:
                    yield Failed(request.id, f"{loss.reason}: {loss.detail}", 0, refused=True)
                else:
                    ready.append(request)
            for request, output in zip(ready, self.llm.chat(conversations, sampling), strict=True):
                (said,) = output.outputs
                written = Written(request.id, said.text, len(output.prompt_token_ids or ()), len(said.token_ids))
                if arrived is not None:
                    arrived(written)
                yield written
