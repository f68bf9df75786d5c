"""Frames, sizes and times of videos, compared with transformers' own video processors."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from transformers.image_utils import SizeDict
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.video_utils import VideoMetadata

from basereward.data.encoding.encoder import Encoder, EncodingError
from basereward.data.images.image_store import ImageError
from basereward.data.schema.group import Video
from basereward.data.videos.open_videos import VideoFacts
from basereward.model.families.processing import load_encoder
from basereward.recipe.schema import DataRecipe, Recipe, VideoRecipe
from basereward.rl.running.rollout_rows import RolloutRows
from tests.helpers.support import checkpoint, clip, picture, video_groups, write_rows

SIZES = [(480, 640), (1080, 1920), (90, 60)]
LENGTHS = [(1, 25.0), (2, 25.0), (5, 30.0), (48, 24.0), (300, 29.97), (5000, 25.0)]


@pytest.fixture(scope="module")
def qwen2_module() -> Any:
    """Return transformers' module of Qwen2-VL's video processor, whose import alone needs torchvision."""
    transforms = "torchvision.transforms"
    names = ["torchvision", transforms, f"{transforms}.v2", f"{transforms}.v2.functional"]
    missing = [name for name in names if name not in sys.modules]
    sys.modules.update({name: types.ModuleType(name) for name in missing})
    try:
        return importlib.import_module("transformers.models.qwen2_vl.video_processing_qwen2_vl")
    finally:
        for name in missing:
            del sys.modules[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return small checkpoints by family."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: checkpoint(family, root / family) for family in ("qwen2_5_vl", "qwen3_vl", "internvl")}


def encoder(folders: dict[str, Path], family: str, **settings: Any) -> Encoder:
    """Return the encoder of a family with settings of videos."""
    return load_encoder(folders[family], video=VideoRecipe(**settings))


@pytest.mark.parametrize("settings", [{"fps": 2.0}, {"fps": 1.0, "min_frames": 8, "max_frames": 33}, {"frames": 16}])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_frames_are_those_of_transformers(
    family: str, settings: dict[str, Any], folders: dict[str, Path], qwen2_module: Any
) -> None:
    """Also for videos that are shorter than one patch, for which transformers has no rule: all frames are used."""
    videos = encoder(folders, family, **settings).videos
    assert videos is not None
    theirs = (qwen2_module.Qwen2VLVideoProcessor if family == "qwen2_5_vl" else Qwen3VLVideoProcessor)()
    theirs.fps = None
    limits = {name: value for name, value in settings.items() if name.endswith("_frames")}
    vars(theirs).update(limits)
    rule = {"num_frames": settings["frames"]} if "frames" in settings else {"fps": settings["fps"]}
    for total, fps in LENGTHS:
        ours = list(videos.clip(VideoFacts(total, fps, 64, 64)).indices)
        if total <= 2:
            assert ours == list(range(total))
        elif settings.get("frames", 0) <= total:
            metadata = VideoMetadata(total_num_frames=total, fps=fps)
            assert ours == [int(index) for index in theirs.sample_frames(metadata, **rule)], (total, fps)
        else:
            # transformers refuses or repeats; here no frame is used twice.
            assert len(set(ours)) == len(ours) <= total


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_qwen2_vl(size: tuple[int, int], folders: dict[str, Path], qwen2_module: Any) -> None:
    """The limits of a frame, and the even share of a budget of the whole video."""
    height, width = size
    for settings in ({"frame_pixels": 50_176}, {"frame_pixels": 50_176, "total_pixels": 200_704}):
        videos: Any = encoder(folders, "qwen2_5_vl", frames=16, **settings).videos
        largest = 50_176 if len(settings) == 1 else 200_704 * 2 // 16
        expected = qwen2_module.smart_resize(height, width, 28, min_pixels=3136, max_pixels=largest)
        clip = videos.clip(VideoFacts(64, 8.0, width, height))
        assert clip.size[::-1] == expected
        assert clip.grid == (8, expected[0] // 14, expected[1] // 14)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_qwen3_vl(
    size: tuple[int, int], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of a whole video, and the share of a frame, as transformers' processor resizes."""
    height, width = size
    theirs = Qwen3VLVideoProcessor()
    # The base resizes by torchvision; what it is told is the size.
    told: list[SizeDict] = []
    base = Qwen3VLVideoProcessor.__mro__[1]
    monkeypatch.setattr(base, "resize", lambda self, image, size, resample: told.append(size), raising=False)
    frames = types.SimpleNamespace(shape=(1, 16, 3, height, width))
    limits = SizeDict(shortest_edge=4096, longest_edge=1_048_576)
    for settings in ({"total_pixels": 1_048_576}, {"total_pixels": 1_048_576, "frame_pixels": 40 * 1024}):
        videos: Any = encoder(folders, "qwen3_vl", frames=16, **settings).videos
        theirs.max_video_tokens = 40
        theirs.resize(frames, limits, None, 32, 2, cap_pixels_per_frame="frame_pixels" in settings)  # type: ignore[arg-type]
        expected = told.pop()
        clip = videos.clip(VideoFacts(64, 8.0, width, height))
        assert clip.size == (expected.width, expected.height)


def test_times_are_those_of_qwen3_vl(folders: dict[str, Path]) -> None:
    """Seconds between the first and the last frame of each patch; an odd last frame is repeated."""
    for frames in (4, 5):
        videos: Any = encoder(folders, "qwen3_vl", frames=frames).videos
        clip = videos.clip(VideoFacts(31, 7.5, 64, 64))
        theirs = Qwen3VLProcessor._calculate_timestamps(None, list(clip.indices), 7.5, 2)  # type: ignore[arg-type]
        assert list(clip.timestamps) == pytest.approx(theirs)


def test_family_without_videos_refuses_them_before_they_are_opened(folders: dict[str, Path]) -> None:
    """The reason is `video_without_model`, when lengths are measured: before a model is loaded."""
    for family in ("internvl",):
        with pytest.raises(EncodingError) as caught:
            encoder(folders, family).measure(video_groups()[0])
        assert caught.value.reason == "video_without_model"


def test_reinforcement_refuses_rows_with_videos_before_training(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its trainer passes no videos to a policy: such a row is counted as lost, also with a family that reads them."""
    frames = [picture(number) for number in range(4)]
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
    videos = [[f"{number}.png" for number in range(4)]]
    rows = [
        {"prompt": "What?", "chosen": "4", "rejected": "5", "videos": videos if number else None} for number in range(2)
    ]
    node = {"_target_": "jsonl", "path": str(write_rows(tmp_path / "rows.jsonl", rows)), "val": 0.0, "test": 0.0}
    recipe = Recipe(data=DataRecipe(sources={"clips": node}, max_lost=0.5))
    rollouts = RolloutRows(recipe, encoder=encoder(folders, "qwen3_vl"), rejections_file=tmp_path / "lost.jsonl")
    assert [row.reason for row in rollouts.rejected] == ["video_without_model"]


def test_measuring_finds_every_frame_that_encoding_would_not_open(folders: dict[str, Path]) -> None:
    """A row that passes when lengths are measured must not stop the training in the middle of an epoch."""
    encode = encoder(folders, "qwen3_vl")
    sample = video_groups()[0]
    frames = clip(4).frames
    for last in ("missing.png", PIL.Image.new("RGB", (9, 9))):
        broken = replace(sample, images=(Video(frames=(*frames[:3], last), fps=2.0),))
        reasons = []
        for read in (encode.measure, encode):
            with pytest.raises(ImageError) as caught:
                read(broken)
            reasons.append(caught.value.reason)
        assert reasons[0] == reasons[1]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_settings_of_videos_survive_saving(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The video processor in the folder of a saved model is that of the checkpoint."""
    videos: Any = encoder(folders, family).videos
    loaded: Any = encoder(folders, family)
    loaded.image_processor.save_pretrained(tmp_path)
    videos.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    again: Any = load_encoder(folders[family], files=tmp_path)
    assert again.fingerprint == loaded.fingerprint
    assert again.videos.processor.size.longest_edge == videos.processor.size.longest_edge
