"""Opens the engine that a command line names."""

from __future__ import annotations

from basereward.errors import ModelError
from basereward.inference.judges.engine import LOCAL, VLLM, Engine


def judge_content(model: str, *, endpoint: str) -> str | None:
    """A hash of everything in a judge that its texts depend on: a folder may be trained again under its name.

    Args:
        model, endpoint: as of `open_engine`.

    Returns:
        Of a trained judge the hash of its model; of a chat checkpoint a hash of its files, or the commit on the hub.
        None for the address of a server, which does not say what it serves, and for a checkpoint that cannot be found.

    Raises:
        ModelError, RunError: the model cannot be opened.

    >>> judge_content("Qwen2.5-VL-7B", endpoint="http://localhost:8000/v1") is None
    True
    """
    if endpoint not in (LOCAL, VLLM):
        return None
    from basereward.inference.judges.content import local_content

    return local_content(model, endpoint=endpoint)


def open_engine(
    model: str, *, endpoint: str, concurrency: int = 8, timeout_s: float = 120.0, send: str | None = None
) -> Engine:
    """Opens a model at an address or on this machine.

    Args:
        model: the server's name of the model; for a local model the hub id or folder, or what `load` opens of a trained
            judge.
        endpoint: an address; or `local` (transformers) or `vllm`, both in this process.
        concurrency: requests in flight, for an address.
        timeout_s: limit of one attempt in seconds, for an address.
        send: JSON object with further fields of every request's body, for an address.

    Raises:
        ModelError: the engine cannot be opened.

    >>> open_engine("Qwen2.5-VL-7B", endpoint="http://localhost:8000/v1").name
    'Qwen2.5-VL-7B at localhost:8000'
    """
    if endpoint in (LOCAL, VLLM) and send is not None:
        raise ModelError(
            f"--send adds fields to requests to an address, and --endpoint {endpoint} sends no requests; leave it out"
        )
    if endpoint == LOCAL:
        # Engines are imported where they are opened: transformers takes seconds, and an address does not need it.
        from basereward.inference.judges.trained import TrainedJudge, is_trained

        if is_trained(model):
            return TrainedJudge(model)
        from basereward.inference.judges.local import LocalEngine

        return LocalEngine(model)
    if endpoint == VLLM:
        from basereward.inference.judges.vllm_engine import VLLMEngine

        return VLLMEngine(model)
    from basereward.inference.judges.endpoint import Endpoint, read_extra

    return Endpoint(endpoint, model, concurrency=concurrency, timeout_s=timeout_s, extra=read_extra(send))
