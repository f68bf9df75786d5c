"""Training with two processes, one without an image in its batch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basereward.data.batching.collate import collate
from basereward.model.backbone import load_backbone
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import RewardModel
from tests.helpers.support import checkpoint, gradients, group

GROUPS = (group(images=1, name="picture"), group("Which is larger, 4 or 7?", name="text"))


def one_gradient(path: Path, rank: int) -> dict[str, Tensor]:
    """Return the gradients of the summed scores of one process's group, alone or together with the other process."""
    torch.manual_seed(0)
    backbone = load_backbone(path)
    model: nn.Module = RewardModel(backbone, nn.Sequential(nn.Linear(backbone.hidden_size, 1), nn.Flatten(0)))
    if torch.distributed.is_initialized():
        model = DistributedDataParallel(model)
    encoder = load_encoder(path)
    model(collate([encoder(GROUPS[rank])], layout="tree", pad_id=encoder.pad_id)).sum().backward()
    return {name.removeprefix("module."): gradient for name, gradient in gradients(model).items()}


def run_rank(rank: int, path: Path, folder: Path) -> None:
    """Compute and save the gradients of one of the two processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    torch.save(one_gradient(path, rank), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_rank_without_an_image_stays_in_step(tmp_path: Path) -> None:
    """Both processes finish their step with the mean of the two gradients.

    The process without an image adds zero to the vision tower.
    """
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    image_gradients, text_gradients = (one_gradient(path, rank) for rank in (0, 1))
    assert not any("visual" in name for name in text_gradients)
    context = torch.multiprocessing.get_context("spawn")
    processes = [context.Process(target=run_rank, args=(rank, path, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(120)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    averaged = torch.load(tmp_path / "0.pt", weights_only=True)
    assert averaged.keys() == image_gradients.keys()
    assert any("visual" in name for name in averaged)
    for name, gradient in torch.load(tmp_path / "1.pt", weights_only=True).items():
        torch.testing.assert_close(gradient, averaged[name], rtol=0, atol=0)
        expected = (image_gradients[name] + text_gradients.get(name, 0.0)) / 2
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
