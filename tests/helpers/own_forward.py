"""Hidden states of transformers' own models for a prompt with an image and a video, without any code of ours."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from basereward.data.schema.group import IMAGE, VIDEO, Group, Part, Turn
from tests.helpers.support import clip, picture, placed

QUESTION = Turn("user", (Part("After "), IMAGE, Part(" comes "), VIDEO, Part(" what?")))


def visual_group(*, drawn: bool) -> Group:
    """Return two responses to a prompt with an image and a video.

    Args:
        drawn: whether the responses have images, one and two.
    """
    sample = Group("a", "test", (QUESTION,), ("A seven.", "4, 5"), (), images=(picture(9), clip(6, fps=1.5)))
    return replace(sample, response_images=(placed((2, 3)), placed((0, 5), (2, 8)))) if drawn else sample


class OwnForward:
    """A checkpoint of Qwen2.5-VL or Qwen3-VL, called as the documentation of transformers says.

    The values of all pixels come from the frames by the patches of its own processors, and it finds the positions
    itself.

    Args:
        path: of the checkpoint.
        family: `qwen2_5_vl` or `qwen3_vl`.
    """

    def __init__(self, path: Path, family: str) -> None:
        self.path = path
        self.family = family

    @cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.path)

    @cached_property
    def _images(self) -> Any:
        return AutoImageProcessor.from_pretrained(self.path, backend="pil")

    @cached_property
    def _model(self) -> Any:
        return AutoModel.from_pretrained(self.path, attn_implementation="eager").eval()

    def __call__(self, sample: Group, row: int) -> tuple[list[int], Tensor]:
        """Return the tokens of a response of `visual_group` after its prompt, `(T,)`, and their states, `(T, D)`."""
        shown = [sample.images[0], *(item.image for item in sample.images_of(row))]
        features = dict(self._images(images=shown, return_tensors="pt"))
        sizes = [int(grid.prod()) // 4 for grid in features["image_grid_thw"]]
        first, *others = [f"<|vision_start|>{'<|image_pad|>' * size}<|vision_end|>" for size in sizes]
        videos = own_video_features(sample.images[1], self._images)
        answer = "".join(others.pop(0) if part.text is None else part.text for part in sample.response_parts(row))
        text = f"<|im_start|>user\nAfter {first} comes {self._written(videos)} what?<|im_end|>\n"
        text += f"<|im_start|>assistant\n{answer}<|im_end|>"
        ids = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        config = self._model.config
        kinds = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
        options = {"second_per_grid_ts": torch.tensor([2 / 1.5])} if self.family == "qwen2_5_vl" else {}
        with torch.no_grad():
            expected = self._model(input_ids=ids, mm_token_type_ids=kinds, **features, **videos, **options)
        return ids[0].tolist(), expected.last_hidden_state[0]

    def _written(self, videos: dict[str, Tensor]) -> str:
        """What stands for the video of `visual_group` in a prompt."""
        grid = videos["video_grid_thw"][0]
        if self.family == "qwen2_5_vl":
            return "<|vision_start|>" + "<|video_pad|>" * (int(grid.prod()) // 4) + "<|vision_end|>"
        # Three patches of two frames each, from 0 to 0.67 s, from 1.33 s to 2 s, and from 2.67 s to 3.33 s.
        frame = "<|video_pad|>" * (int(grid[1:].prod()) // 4)
        times = ("<0.3 seconds>", "<1.7 seconds>", "<3.0 seconds>")
        return "".join(f"{time}<|vision_start|>{frame}<|vision_end|>" for time in times)


def own_video_features(video: Any, images: Any) -> dict[str, Tensor]:
    """Return what transformers' model gets of the frames of a video: normalized by hand, and cut by its processor."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    factor = images.patch_size * images.merge_size
    # The frames of 56 x 84 pixels have the nearest multiple of 28 or of 32 as their size.
    width, height = (round(side / factor) * factor for side in video.frames[0].size)
    values = []
    for frame in video.frames:
        resized = np.asarray(frame.resize((width, height), PIL.Image.Resampling.BICUBIC), dtype=np.float32)
        values.append(
            (torch.from_numpy(resized) / 255 - torch.tensor(images.image_mean)) / torch.tensor(images.image_std)
        )
    frames = torch.stack(values).permute(0, 3, 1, 2)[None]
    patches, *grid = Qwen3VLVideoProcessor().patchify(frames, images.patch_size, images.merge_size, 2)
    return {"pixel_values_videos": patches[0], "video_grid_thw": torch.tensor([grid])}
