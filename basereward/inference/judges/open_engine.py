"""Opens the engine that a command line names."""

from __future__ import annotations

from basereward.errors import ModelError
from basereward.inference.judges.engine import Engine

LOCAL, VLLM = "local", "vllm"


def open_engine(
    model: str, *, endpoint: str, concurrency: int = 8, timeout_s: float = 120.0, send: str | None = None
) -> Engine:
    """Opens a model at an address or on this machine.

    Args:
        model: the server's name of the model; for a local model the hub id or folder.
        endpoint: an address, or `local` (transformers) or `vllm`, both in this process.
        concurrency: requests in flight, for an address.
        timeout_s: of one attempt, for an address.
        send: JSON object with further fields of every request's body, for an address.

    Raises:
        ModelError: the engine cannot be opened.
    """
    if endpoint in (LOCAL, VLLM) and send is not None:
        raise ModelError(
            f"--send is part of a request to an address, and --endpoint {endpoint} sends none; leave it out"
        )
    if endpoint == LOCAL:
        from basereward.inference.judges.local import LocalEngine  # seconds; not needed for an address

        return LocalEngine(model)
    if endpoint == VLLM:
        from basereward.inference.judges.vllm_engine import VLLMEngine

        return VLLMEngine(model)
    from basereward.inference.judges.endpoint import Endpoint, read_extra

    return Endpoint(endpoint, model, concurrency=concurrency, timeout_s=timeout_s, extra=read_extra(send))
