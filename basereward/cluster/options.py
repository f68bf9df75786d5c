"""The options of work on a cluster, as the commands take them."""

from __future__ import annotations

from dataclasses import dataclass

from basereward.cluster.ray_cluster import check_address
from basereward.errors import ClusterError


@dataclass(frozen=True)
class ClusterOptions:
    """The options of `--on ray`.

    Args:
        address: as in `connect`.
        shards: number of shards; None: four for each worker.
        workers: number of workers; None: one for each GPU of the cluster, or for each CPU if it has no GPU.

    Raises:
        ClusterError: an address of the wrong form, or a number below 1.

    >>> ClusterOptions(shards=0)
    Traceback (most recent call last):
        ...
    basereward.errors.ClusterError: --shards 0: at least 1 is needed
    """

    address: str | None = None
    shards: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for option, value in (("--shards", self.shards), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise ClusterError(f"{option} {value}: at least 1 is needed")
        if self.address is not None:
            check_address(self.address)
