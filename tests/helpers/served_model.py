"""Saved models with random weights, and servers of them that run as `basereward serve`."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file

from basereward.data.batching.collate import collate
from basereward.data.encoding.encoder import EncodedGroup
from basereward.inference.scorer import Scorer
from basereward.model.backbone import load_backbone
from basereward.model.families.parts import PARTS
from basereward.model.families.processing import load_encoder, recipe_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe
from tests.helpers.forked_command import ForkedCommand
from tests.helpers.support import checkpoint, group

START_S = 900.0
"""Seconds after which a server that does not answer has failed. It takes some ten; on a busy machine, far more."""
ANSWER_S = 120.0


def save_scored_model(
    folder: Path, *, head: str, backbone: Path | None = None, frozen: bool = False, **options: Any
) -> Path:
    """Save a small Qwen2.5-VL whose scores on validation data have mean 0.5 and deviation 2, and return its folder.

    Args:
        folder: gets the folder `model`, and the folder `backbone` if none is given.
        head: the name of the head.
        backbone: a checkpoint; None: one with random weights.
        frozen: whether the backbone is not trained; then the model reads it from its own folder.
        options: of the head.
    """
    path = backbone or checkpoint("qwen2_5_vl", folder / "backbone")
    recipe = Recipe(
        model=ModelRecipe(
            backbone=BackboneRecipe(path=str(path), freeze=list(PARTS) if frozen else []),
            head={"_target_": head, **options},
        ),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    encoder = recipe_encoder(recipe, path=str(path))
    model = build_model(recipe.model, path=str(path), seed=0, encoder=encoder).eval()
    Scorer(model, encoder=encoder, recipe=recipe, scores={"mean": 0.5, "std": 2.0}).save(folder / "model")
    return folder / "model"


@torch.no_grad()
def judge_checkpoint(folder: Path) -> Path:
    """Write a small Qwen2.5-VL that writes `1` or `2` and nothing else at temperature 0, each about as often."""
    path = checkpoint("qwen2_5_vl", folder)
    encoder, backbone = load_encoder(path), load_backbone(path).eval()
    prompts: list[EncodedGroup] = []
    for number in range(16):
        text = f"Question {number}: {'what' * number}?\n1: {'yes ' * (number % 5)}\n2: {number}\nBetter?"
        prompts.append(encoder.opening(group(text, ("",), images=number % 2)))
    states = backbone(collate(prompts, layout="tree", pad_id=encoder.pad_id))
    # The direction in which the states before a verdict differ most, without that of their mean, which they share.
    mean = states.mean(0)
    direction = torch.linalg.svd(states - mean, full_matrices=False).Vh[0]
    direction -= (direction @ mean) / (mean @ mean) * mean
    direction *= 2 / (states @ direction).std()
    tensors = load_file(path / "model.safetensors")
    first, second = encoder.plain("12").tolist()
    # The logits of all other tokens are 0, and one of these two is above.
    tensors["lm_head.weight"].zero_()
    tensors["lm_head.weight"][first], tensors["lm_head.weight"][second] = direction, -direction
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@dataclass(frozen=True)
class ServedModel:
    """A server that runs.

    Attributes:
        address: such as `http://127.0.0.1:8008`.
        key: that it asks for; empty: none.
        process: of the server.
    """

    address: str
    key: str
    process: ForkedCommand

    @property
    def port(self) -> int:
        """The port of the address."""
        return int(self.address.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        """The header with the key."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        """Send a JSON body with the key."""
        return requests.post(f"{self.address}{path}", json=body, headers=self.headers, timeout=ANSWER_S, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that have these labels."""
        text = requests.get(f"{self.address}/metrics", headers=self.headers, timeout=ANSWER_S).text
        total = 0.0
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    def wait_for_metric(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has a value."""
        deadline = time.monotonic() + START_S
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"{name} is {found:g} and not {value:g}"
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """The processes that have the model."""
        children = psutil.Process(self.process.pid).children()
        # Not the resource tracker of multiprocessing, which is a child too.
        return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


@contextmanager
def served_model(model: Path, *options: str, key: str = "") -> Iterator[ServedModel]:
    """Run `basereward serve` in the block.

    Args:
        model: the folder of a saved model.
        options: of the command.
        key: that clients must send; empty: none.
    """
    port = free_port()
    environment = os.environ | {"BASEREWARD_SERVER_KEY": key}
    server = ForkedCommand("serve", model, "--port", port, *options, environment=environment)
    served = ServedModel(f"http://127.0.0.1:{port}", key, server)
    try:
        wait_until_ready(served)
        yield served
    finally:
        for worker in served.workers() if server.poll() is None else []:
            # A test that has stopped it may have failed before it went on.
            worker.send_signal(signal.SIGCONT)
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(START_S)
        finally:
            server.kill()


def wait_until_ready(served: ServedModel) -> None:
    """Wait until all workers of a server have the model."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and served.process.poll() is None:
        try:
            health = requests.get(f"{served.address}/health", timeout=5)
            if health.status_code == 200 and health.json()["status"] == "ok":
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    served.process.kill()
    raise AssertionError(f"the server has not started: {served.process.communicate()[1][-3000:]}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
