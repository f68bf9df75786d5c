"""The pictures of a batch as the language model takes them, and the features of a frozen tower kept on the disk.

Shapes: S states of a token (the one that enters the language model, and those that are added in deeper layers), t
visual tokens of a picture, D numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.tiles import to_tiles
from basereward.data.images.vision_features import Features
from basereward.errors import ModelError
from basereward.io.cache import cache_folder
from basereward.model.determinism_key import machine
from basereward.model.families.parts import part_of

LOOKING = ("vision", "merger")  # the parts that a batch without pictures does not run through


@dataclass(frozen=True, slots=True)
class Looks:
    """What transformers takes from a vision tower, for every picture in the order of their places in the rows."""

    pooler_output: list[Tensor] | Tensor  # of (t, D); or all of them in one, where the family wants it so
    deepstack_features: list[list[Tensor]]  # the same, for each of the S - 1 deeper layers


class PictureEncoder:
    """Encodes the pictures of batches.

    Where gradients go to the tower, it takes all pictures in one pass. Elsewhere it takes them one by one: in a pass of
    several, the last bits of a picture's features would depend on the others.

    Attributes:
        store: where the features of a frozen tower are kept; None: nowhere.
    """

    def __init__(self) -> None:
        self.store: FeatureStore | None = None

    def __call__(self, transformer: PreTrainedModel, batch: TreeBatch) -> Looks:
        """What goes to the places of pictures in the batch's rows; it has some."""
        found = self._encoded(transformer, batch)
        if batch.features is not None:
            found += batch.features.split()
        placed = [found[index] for index in batch.image_places]
        levels = range(1, len(placed[0]))
        entering = [states[0] for states in placed]
        return Looks(
            torch.cat(entering) if reads_tiles(transformer) else entering,
            [[states[level] for states in placed] for level in levels],
        )

    def encoded(self, transformer: PreTrainedModel, batch: TreeBatch) -> TreeBatch:
        """The batch with the features of its pictures in place of their pixels, for several passes over it."""
        if batch.pixels is None or batch.image_grid_thw is None:
            return batch
        states = self._encoded(transformer, batch)
        grids = tuple((time, height, width) for time, height, width in batch.image_grid_thw.tolist())
        features = Features(torch.cat(states, dim=1), grids, tuple(each.shape[1] for each in states))
        if batch.features is not None:
            features = Features.joined([features, batch.features])
        return replace(batch, pixels=None, image_grid_thw=None, image_keys=(), features=features)

    def _encoded(self, transformer: PreTrainedModel, batch: TreeBatch) -> list[Tensor]:
        """`(S, t, D)` of every picture that comes as pixels."""
        if batch.pixels is None or batch.image_grid_thw is None:
            return []
        if torch.is_grad_enabled() and is_trained(transformer):
            return encode(transformer, batch.pixels.values, batch.image_grid_thw)
        grids: list[list[int]] = batch.image_grid_thw.tolist()
        found, first = [], 0
        for index, (time, height, width) in enumerate(grids):
            here = slice(first, first + time * height * width)
            first = here.stop
            key = batch.image_keys[index] if self.store is not None and batch.image_keys else None
            kept = self._find(key)
            if kept is None:
                pixels = batch.pixels.map(lambda patches, here=here: patches[here])  # type: ignore[misc]
                with torch.no_grad():
                    (states,) = encode(transformer, pixels.values, batch.image_grid_thw[index : index + 1])
                self._keep(key, Features(states, ((time, height, width),), (states.shape[1],)))
            else:
                states = kept.states.to(batch.input_ids.device)
            found.append(states)
        return found

    def _find(self, key: str | None) -> Features | None:
        """What was kept after the batch was made."""
        return None if self.store is None or key is None else self.store.find(key)

    def _keep(self, key: str | None, features: Features) -> None:
        if self.store is not None and key is not None:
            self.store.keep(key, features)


def encode(transformer: PreTrainedModel, patches: Tensor, grids: Tensor) -> list[Tensor]:
    """The states of every picture, `(S, t, D)`, in one pass of the tower.

    Args:
        transformer: one that reads images.
        patches: of n pictures, as the image processor makes them.
        grids: `(n, 3)`, patches in time, height and width.
    """
    model: Any = transformer
    if reads_tiles(transformer):
        _, rows, columns = grids[0].tolist()
        tiles = to_tiles(patches, rows=rows, columns=columns, side=model.config.vision_config.patch_size[0])
        features = model.get_image_features(tiles, return_dict=True).pooler_output
        return [states.flatten(0, 1)[None] for states in torch.split(features, grids[:, 0].tolist())]
    output = model.get_image_features(patches, grids, return_dict=True)
    deeper: Sequence[Sequence[Tensor]] = getattr(output, "deepstack_features", None) or ()
    return [torch.stack(states) for states in zip(output.pooler_output, *deeper, strict=True)]


def features_of_nothing(transformer: PreTrainedModel) -> Tensor:
    """The sum of what the vision tower makes of the smallest picture there is: it depends on all of its weights."""
    config: Any = transformer.config.vision_config
    if reads_tiles(transformer):
        side = config.image_size[0] // config.patch_size[0]
        width = config.num_channels * config.patch_size[0] ** 2
    else:
        side = config.spatial_merge_size
        width = config.in_channels * config.temporal_patch_size * config.patch_size**2
    patches = torch.zeros(side * side, width, dtype=transformer.dtype, device=transformer.device)
    (states,) = encode(transformer, patches, torch.tensor([[1, side, side]], device=patches.device))
    return states.sum()


def reads_tiles(transformer: PreTrainedModel) -> bool:
    """Whether the tower takes pictures as tiles of one size: InternVL's."""
    return transformer.config.model_type == "internvl"


def towers(transformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that pictures go through before the language model, with their names."""
    return ((name, module) for name, module in transformer.named_children() if part_of(name) in LOOKING)


def is_trained(transformer: nn.Module) -> bool:
    """Whether any weight of the vision tower or its merger, adapters included, is trained."""
    return any(parameter.requires_grad for _, tower in towers(transformer) for parameter in tower.parameters())


def keep_features(
    vision: PictureEncoder,
    *,
    transformer: PreTrainedModel,
    encoder: Encoder,
    gib: float,
    device: torch.device,
    precision: str,
) -> None:
    """Has features looked for before a picture is opened, and kept when they are computed.

    Args:
        encoder: that of all batches; its processes are not started yet.
        gib: the most that the folder of all features may hold.
        device, precision: of the run, the latter as the recipe names it.

    Raises:
        ModelError: the tower is trained, or there is none.
    """
    given = f"data.encoding.feature_cache is {gib:g}"
    if encoder.image_processor is None:
        raise ModelError(f"{given}, and the backbone reads text only: it has no features to keep. Set it to null.")
    if is_trained(transformer):
        raise ModelError(
            f"{given}, and the vision tower or its merger is trained: its features change at every step. Allowed where "
            "both are frozen: name vision and merger in model.backbone.freeze, or leave both out of model.lora.parts; "
            "or set data.encoding.feature_cache to null."
        )
    setting = _setting(transformer, processor=encoder.image_processor, device=device, precision=precision)
    vision.store = FeatureStore(cache_folder() / "features", setting=setting, gib=gib)
    encoder.pictures.store = vision.store


def _setting(transformer: PreTrainedModel, *, processor: Any, device: torch.device, precision: str) -> str:
    """Everything besides the picture that the bits of its features depend on, as a hash."""
    config: Any = transformer.config
    vision_config: Any = config.vision_config
    # What InternVL takes of its tower, and how it makes tokens of it: no weights.
    taken = [getattr(config, name, None) for name in ("downsample_ratio", "vision_feature_layer")]
    parts = (
        *(type(processor).__qualname__, processor.to_json_string()),
        *(vision_config.to_json_string(), vision_config._attn_implementation, precision),
        *machine(device),
        *(taken if reads_tiles(transformer) else ()),
    )
    digest = hashlib.sha256(repr(parts).encode())
    for name, tower in towers(transformer):
        for path, module in tower.named_modules():
            work: Any = module.forward  # another class's, or one that was put in its place
            digest.update(f"{name} {path} {work.__module__} {work.__qualname__}".encode())
        for path, weight in (*tower.named_parameters(), *tower.named_buffers()):
            digest.update(f"{name} {path} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
