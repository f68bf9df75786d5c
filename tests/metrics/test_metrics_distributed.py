"""Metrics over two processes equal those of one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from basereward.metrics.collection import PreferenceMetrics


def rows() -> dict[str, torch.Tensor]:
    """Return the same 41 random rows in every process."""
    generator = torch.Generator().manual_seed(5)
    return {
        "margins": torch.randn(41, generator=generator) + 0.3,
        "ties": torch.rand(41, generator=generator) < 0.3,
        "winner_lengths": torch.randint(1, 6, (41,), generator=generator),
        "loser_lengths": torch.randint(1, 6, (41,), generator=generator),
    }


def measure(rank: int, folder: str) -> None:
    """Save the metrics of one process. `shared`: the rows are split unevenly; `lone`: the second process has none."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    results = {}
    for name, cut in (("shared", 10), ("lone", 41)):
        metrics = PreferenceMetrics()
        parts = {key: (column[:cut], column[cut:])[rank] for key, column in rows().items()}
        if len(parts["margins"]):
            metrics.update(**parts)
        results[name] = metrics.compute()
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Both processes get the value over all rows, with an uneven split and when one process has no rows."""
    torch.multiprocessing.spawn(measure, args=(str(tmp_path),), nprocs=2)
    one_process = PreferenceMetrics()
    one_process.update(**rows())
    for rank in range(2):
        for name, result in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            assert result == pytest.approx(one_process.compute(), rel=1e-6), (rank, name)
