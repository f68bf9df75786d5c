"""Answers requests batch by batch, for engines in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.schema.rejections import RowRejected
from basereward.inference.judges.engine import Answer, Completion, Failed, OnCompletion, Request, several

BATCH_SIZE = 16
"""Default number of requests in a batch."""

EncodedRequest = tuple[Request, EncodedGroup]


def in_batches(
    requests: Iterable[Request],
    size: int,
    *,
    encode: Callable[[Request], EncodedGroup],
    complete: Callable[[Sequence[EncodedRequest]], Iterable[Completion]],
    on_completion: OnCompletion | None = None,
) -> Iterator[Answer]:
    """Answer all requests, one batch after the other. A request that cannot be encoded fails alone.

    Args:
        requests: in any number.
        size: requests in a batch.
        encode: the tokens of a request; it raises `RowRejected` for one that cannot be asked.
        complete: the completions of a batch of at least one request, in their order.
        on_completion: as of `Engine.generate`.
    """
    for batch in several(requests, size):
        encoded: list[EncodedRequest] = []
        for request in batch:
            try:
                encoded.append((request, encode(request)))
            except RowRejected as rejection:
                yield Failed(request.id, f"{rejection.reason}: {rejection.detail}", 0, refused=True)
        # Every request of the batch may have been rejected, and a batch of tree rows cannot be empty.
        for completion in complete(encoded) if encoded else ():
            if on_completion is not None:
                on_completion(completion)
            yield completion
