"""The processes that train one run together, as the environment of this process describes them.

torchrun, SLURM and `basereward` itself start one process for each device, and tell each its number by variables. The
process with the number 0 alone writes and prints.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Starter: TypeAlias = Literal["nobody", "basereward", "lightning", "torchrun", "slurm"]
"""What started the processes; `nobody`: this is a process by itself. `lightning`: the trainer of a user's own script,
which runs the script again for every device."""
OWN_VARIABLE = "BASEREWARD_RANK"


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of this process among those of a run.

    Attributes:
        starter: what started them.
        number: of this process among all, from 0.
        local: of this process among those of its machine, from 0.
        ranks: number of all processes.
        local_ranks: number of processes on each machine.
    """

    starter: Starter = "nobody"
    number: int = 0
    local: int = 0
    ranks: int = 1
    local_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.number == 0


def this_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Read the place of this process from its environment.

    Args:
        environment: variables by name.

    >>> this_rank({})
    Rank(starter='nobody', number=0, local=0, ranks=1, local_ranks=1)
    >>> step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    >>> this_rank(step | {"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}).local_ranks
    2
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdigit() else default

    if own := environment.get(OWN_VARIABLE):
        return Rank("basereward", *map(int, own.split(",")))
    # torchrun before SLURM, because it may run inside of a job.
    if "TORCHELASTIC_RUN_ID" in environment:
        ranks = number("WORLD_SIZE", 1)
        return Rank("torchrun", number("RANK", 0), number("LOCAL_RANK", 0), ranks, number("LOCAL_WORLD_SIZE", ranks))
    # The commands of a job script have the number of tasks too, but are no step that `srun` started.
    if number("SLURM_NTASKS", 1) > 1 and "SLURM_STEP_ID" in environment:
        tasks = number("SLURM_NTASKS", 1)
        local_ranks = max(1, tasks // max(1, number("SLURM_NNODES", 1)))
        return Rank("slurm", number("SLURM_PROCID", 0), number("SLURM_LOCALID", 0), tasks, local_ranks)
    if "LOCAL_RANK" in environment:
        local, ranks = number("LOCAL_RANK", 0), number("WORLD_SIZE", 1)
        return Rank("lightning", number("NODE_RANK", 0) * ranks + local, local, ranks, ranks)
    return Rank()


def own_variables(rank: Rank) -> dict[str, str]:
    """The variables by which `basereward` tells a process that it starts its place.

    >>> this_rank(own_variables(Rank("basereward", 1, 1, 2, 2))).number
    1
    """
    place = f"{rank.number},{rank.local},{rank.ranks},{rank.local_ranks}"
    # Lightning reads the others, and starts no processes where there is a local rank.
    return {OWN_VARIABLE: place, "LOCAL_RANK": str(rank.local), "NODE_RANK": "0", "WORLD_SIZE": str(rank.ranks)}
