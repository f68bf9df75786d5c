"""Features of the images of a batch, and the cache of features of a frozen vision tower on the disk.

Shapes: n images, t visual tokens of an image, S states of a token (the one that enters the language model, and those
that are added in deeper layers), D channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.feature_writer import FeatureWriter
from basereward.data.images.image_dedup import BatchImages
from basereward.data.images.vision_features import Features, Grid
from basereward.errors import ModelError
from basereward.io.files import cache_folder
from basereward.model.determinism_key import machine
from basereward.model.families.backbone_family import VisionOutput
from basereward.model.families.parts import part_of
from basereward.model.families.registry import vision_family

VISION_PARTS = ("vision", "merger")


class ImageEncoder:
    """Runs the vision tower on the images of a batch.

    All images are encoded in one pass. Only for the cache of a frozen tower on the CPU they are encoded one by one: in
    a pass of several, the last bits of an image's features depend on the other images, and a cached image must not.

    Attributes:
        store: cache of the features of a frozen tower; None: no cache.

    >>> ImageEncoder().store is None
    True
    """

    def __init__(self) -> None:
        self.store: FeatureStore | None = None
        self._writer: FeatureWriter | None = None

    def __call__(self, transformer: PreTrainedModel, batch: TreeBatch) -> VisionOutput:
        """The features for every place of an image in the rows; the batch has at least one image."""
        features_of_images = self._encode_pixels(transformer, batch)
        if batch.images.features is not None:
            features_of_images += batch.images.features.split()
        # An image may stand at several places: groups share images, and plain rows repeat the prompt.
        placed = [features_of_images[index] for index in batch.images.places]
        deepstack = []
        for level in range(1, len(placed[0])):
            deepstack.append([states[level] for states in placed])
        entering = [states[0] for states in placed]
        return VisionOutput(vision_family(transformer.config).entering_features(entering), deepstack)

    def with_features(self, transformer: PreTrainedModel, batch: TreeBatch) -> TreeBatch:
        """The batch with features in place of pixels, for several passes of the language model over it."""
        if batch.images.pixels is None:
            return batch
        states = self._encode_pixels(transformer, batch)
        tokens = tuple(image.shape[1] for image in states)
        features = Features(torch.cat(states, dim=1), batch.images.grids, tokens)
        if batch.images.features is not None:
            features = Features.joined([features, batch.images.features])
        return replace(
            batch, images=BatchImages(features=features, places=batch.images.places, tokens=batch.images.tokens)
        )

    def _encode_pixels(self, transformer: PreTrainedModel, batch: TreeBatch) -> list[Tensor]:
        """`(S, t, D)` of every image that the batch has as pixels."""
        if batch.images.pixels is None:
            return []
        if self.store is not None:
            return self._encode_uncached(transformer, batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_trained(transformer)):
            return encode(transformer, batch.images.pixels.values, batch.images.grids)

    def _encode_uncached(self, transformer: PreTrainedModel, batch: TreeBatch) -> list[Tensor]:
        """`(S, t, D)` of every image that the batch has as pixels, from the store or from a frozen tower."""
        images = range(len(batch.images.grids))
        # An earlier batch may have stored features after the data loader looked for them.
        states_of = self._stored(batch)
        missing = [index for index in images if index not in states_of]
        # A GPU promises no bits, and takes many small passes slowly.
        passes = [missing] if batch.rows.input_ids.is_cuda and missing else [[index] for index in missing]
        for indices in passes:
            states_of.update(zip(indices, self._encode_and_keep(transformer, batch, indices), strict=True))
        return [states_of[index] for index in images]

    def _stored(self, batch: TreeBatch) -> dict[int, Tensor]:
        """The features that the store has, by the index of the image among those with pixels."""
        found: dict[int, Tensor] = {}
        for index, key in enumerate(batch.images.keys):
            stored = self.store.find(key) if self.store is not None else None
            if stored is not None:
                found[index] = stored.states.to(batch.rows.input_ids.device)
        return found

    def _encode_and_keep(self, transformer: PreTrainedModel, batch: TreeBatch, indices: Sequence[int]) -> list[Tensor]:
        """`(S, t, D)` of some images in one pass of a frozen tower; they are stored.

        Args:
            transformer: of the backbone.
            batch: with pixels.
            indices: of the images among those with pixels.
        """
        images = batch.images
        assert images.pixels is not None
        sizes = [math.prod(grid) for grid in images.grids]
        grids = [images.grids[index] for index in indices]

        def of_images(patches: Tensor) -> Tensor:
            parts = torch.split(patches, sizes)
            return torch.cat([parts[index] for index in indices])

        with torch.no_grad():
            states_of_images = encode(transformer, images.pixels.map(of_images).values, grids)
        if self.store is not None and images.keys:
            for index, grid, states in zip(indices, grids, states_of_images, strict=True):
                self._keep(self.store, images.keys[index], Features(states, (grid,), (states.shape[1],)))
        return states_of_images

    def _keep(self, store: FeatureStore, key: str, features: Features) -> None:
        """Write the features of an image; those on a GPU in the background, because their copy would stop it."""
        if not features.states.is_cuda:
            store.keep(key, features)
            return
        if self._writer is None or self._writer.store is not store:
            self._writer = FeatureWriter(store)
        self._writer.keep(key, features)


def encode(transformer: PreTrainedModel, patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """Features `(S, t, D)` of every image; see `VisionFamily.encode_images` for the arguments."""
    return vision_family(transformer.config).encode_images(transformer, patches, grids)


def features_of_nothing(transformer: PreTrainedModel) -> Tensor:
    """The sum of the features of a black image of the smallest size: a scalar that depends on every vision weight.

    Args:
        transformer: of a family that reads images.
    """
    family = vision_family(transformer.config)
    side, numbers = family.smallest_image(transformer.config.vision_config)
    patches = torch.zeros(side * side, numbers, dtype=transformer.dtype, device=transformer.device)
    (states,) = family.encode_images(transformer, patches, [(1, side, side)])
    return states.sum()


def towers(transformer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that encode images, with their names: vision tower and merger.

    >>> [name for name, _ in towers(nn.ModuleDict({"visual": nn.Linear(2, 2), "layers": nn.Linear(2, 2)}))]
    ['visual']
    """
    for name, module in transformer.named_children():
        if part_of(name) in VISION_PARTS:
            yield name, module


def is_trained(transformer: nn.Module) -> bool:
    """Whether any weight of the vision tower or its merger is trained, including adapters.

    >>> is_trained(nn.ModuleDict({"visual": nn.Linear(2, 2).requires_grad_(False), "layers": nn.Linear(2, 2)}))
    False
    """
    for _, tower in towers(transformer):
        trained = [parameter for parameter in tower.parameters() if parameter.requires_grad]
        if trained:
            return True
    return False


def keep_features(
    vision: ImageEncoder,
    *,
    transformer: PreTrainedModel,
    encoder: Encoder,
    gib: float,
    device: torch.device,
    precision: str,
) -> Encoder:
    """Turns the cache of image features on, for reading in the data loader and for writing after the tower.

    Args:
        vision: of the backbone.
        transformer: of the backbone.
        encoder: of all batches; its worker processes have not started.
        gib: size limit of the folder of all cached features, in GiB.
        device: of the run.
        precision: of the run, as in the recipe.

    Returns:
        The encoder with the cache, which takes the place of `encoder`.

    Raises:
        ModelError: the backbone reads no images, or its vision tower or merger is trained.
    """
    setting_text = f"data.encoding.feature_cache is {gib:g}"
    if encoder.image_processor is None:
        raise ModelError(f"{setting_text}, and the backbone is text-only: it has no image features. Set it to null.")
    if is_trained(transformer):
        raise ModelError(
            f"{setting_text}, and the vision tower or its merger is trained: its features change at every step. Freeze "
            "both: name vision and merger in model.backbone.freeze, or leave both out of model.lora.parts; or set "
            "data.encoding.feature_cache to null."
        )
    key = _feature_key(transformer, processor=encoder.image_processor, device=device, precision=precision)
    vision.store = FeatureStore(cache_folder() / "features", setting=key, gib=gib)
    return encoder.with_feature_store(vision.store)


def _attention_of(transformer: PreTrainedModel) -> str:
    """The name of the attention implementation of the vision tower."""
    names = [
        getattr(tower, "config", transformer.config.vision_config)._attn_implementation
        for _, tower in towers(transformer)
    ]
    return " ".join(names)


def _feature_key(transformer: PreTrainedModel, *, processor: Any, device: torch.device, precision: str) -> str:
    """A hash of everything, besides the image, that changes a bit of its features."""
    config: Any = transformer.config
    vision_config: Any = config.vision_config
    parts = (
        *(type(processor).__qualname__, processor.to_json_string()),
        *(vision_config.to_json_string(), _attention_of(transformer), precision),
        *machine(device),
        *vision_family(config).feature_settings(config),
    )
    digest = hashlib.sha256(repr(parts).encode())
    for name, tower in towers(transformer):
        for path, module in tower.named_modules():
            # Kernels replace `forward`, and other kernels round differently.
            forward: Any = module.forward
            digest.update(f"{name} {path} {forward.__module__} {forward.__qualname__}".encode())
        for path, weight in (*tower.named_parameters(), *tower.named_buffers()):
            digest.update(f"{name} {path} {weight.dtype} {tuple(weight.shape)}".encode())
            # As bytes: NumPy has no bfloat16.
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
