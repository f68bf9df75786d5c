"""Several workers of a server: their threads, and the worker of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from basereward.data.schema.group import Group
from basereward.errors import ModelError
from basereward.inference.parallel_scorer import threads_of_process
from basereward.inference.scorer import load_scorer
from basereward.serve.reading.request_reader import RequestReader, prompt_key
from basereward.serve.run_server import open_pool
from basereward.serve.settings import ServerSettings
from tests.helpers.served_model import save_scored_model

pytestmark = pytest.mark.usefixtures("forked_scorers")


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Let torch use four threads in this process, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_share_of_threads() -> None:
    """Processes on the CPU share its threads, each with at least one; processes on GPUs choose themselves."""
    assert threads_of_process(["cpu"]) == 4
    assert threads_of_process(["cpu", "cuda:0", "cpu"]) == 2
    assert threads_of_process(["cpu"] * 9) == 1
    assert threads_of_process(["cuda:0", "cuda:1"]) is None
    assert threads_of_process([None]) is None


@pytest.mark.usefixtures("four_threads")
def test_two_workers_share_the_threads_and_the_prompts(tmp_path: Path) -> None:
    """Each of two workers on the CPU has two of four threads. Both get prompts, the same prompt goes to the same one,
    and the scores are those of the model in this process."""
    model = save_scored_model(tmp_path, head="mlp")
    pool = open_pool(str(model), settings=ServerSettings(), devices=["cpu", "cpu"])
    try:
        assert [worker.info["threads"] for worker in pool.workers] == [2, 2]
        reader, scorer = RequestReader(ServerSettings()), load_scorer(model)
        used = set()
        for number in range(12):
            group: Group = reader.group(f"Question {number}?", ["yes", "no"])
            worker = pool.worker_of(prompt_key(group))
            assert pool.worker_of(prompt_key(group)) is worker
            used.add(worker.pid)
            _, future = worker.submit(prompt_key(group), group)
            assert future.result(timeout=120) == pytest.approx(
                scorer.score(f"Question {number}?", ["yes", "no"]), abs=1e-5
            )
        assert used == {worker.pid for worker in pool.workers}
    finally:
        pool.close()


def test_model_that_cannot_be_opened(tmp_path: Path) -> None:
    """The error of the worker is raised where the pool is opened."""
    with pytest.raises(ModelError):
        open_pool(str(tmp_path), settings=ServerSettings(), devices=["cpu"])
