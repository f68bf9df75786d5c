"""The engine that a command line names."""

from __future__ import annotations

from basereward.errors import ModelError
from basereward.inference.judges.engine import Engine

LOCAL, VLLM = "local", "vllm"


def open_engine(
    model: str, *, endpoint: str, concurrency: int = 8, timeout_s: float = 120.0, send: str | None = None
) -> Engine:
    """The model behind an address, or on this machine.

    Args:
        model: as the server calls it; of a local one the hub id or folder.
        endpoint: an address, or `local` (transformers) or `vllm`, both in this process.
        send: a JSON object with more of every request's body, as `Endpoint` takes it; for an address alone.

    Raises:
        ModelError: it cannot be opened.
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
