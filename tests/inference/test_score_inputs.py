"""What the methods of a loaded model take: prompts, messages and images of every form, and rows of every kind."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch

import basereward
from basereward.errors import DataError, ModelError
from basereward.inference.aggregation import Rule
from basereward.inference.ensemble import Ensemble, Member, model_digest
from basereward.inference.mlflow_loader import MlflowScorer
from basereward.inference.score_file import score
from basereward.inference.scorer import Scorer
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import pair_rows, picture, write_rows

RESPONSES = ["It is a seven.", "4", "No digit."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small Qwen2.5-VL with random weights, and return its folder."""
    return save_scored_model(tmp_path_factory.mktemp("inputs"), head="mlp")


@pytest.fixture(scope="module")
def model(folder: Path) -> Scorer:
    """Open the model."""
    opened = basereward.load(folder)
    assert isinstance(opened, Scorer)
    return opened


def png(image: PIL.Image.Image) -> bytes:
    """Return the bytes of an image file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


IMAGES: dict[str, Callable[[PIL.Image.Image], Any]] = {
    "bytes": png,
    "object with bytes": lambda image: {"bytes": png(image), "path": None},
    "data URI": lambda image: f"data:image/png;base64,{base64.b64encode(png(image)).decode()}",
    "numpy": np.asarray,
    "numpy view": lambda image: np.asarray(image)[::-1][::-1],
    "torch bytes": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1),
    "torch float32": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255,
    "torch float64 with gradient": lambda image: (
        torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    ).requires_grad_(),
}


@pytest.mark.parametrize("form", IMAGES)
def test_images_of_every_form_have_the_same_scores(model: Scorer, form: str) -> None:
    """As an argument, in a part of transformers' form, and beside the content, the scores are those of PIL images."""
    first, second = picture(3), picture(5)
    question = "Is <image> larger than <image>?"
    expected = model.score(question, RESPONSES, images=[first, second])
    assert expected != model.score(question, RESPONSES, images=[second, first])
    given = [IMAGES[form](image) for image in (first, second)]
    assert model.score(question, RESPONSES, images=given) == expected
    texts = [{"type": "text", "text": text} for text in ("Is ", " larger than ", "?")]
    parts = [{"type": "image", "image": image} for image in given]
    content = [texts[0], parts[0], texts[1], parts[1], texts[2]]
    assert model.score([{"role": "user", "content": content}], RESPONSES) == expected
    assert model.score(({"role": "user", "content": question, "images": given},), RESPONSES) == expected


def test_messages_of_openai(model: Scorer, tmp_path: Path) -> None:
    """Parts with a data URI, with a path and with `detail`; an address is refused with what to do."""
    picture(3).save(tmp_path / "3.png")
    expected = model.score("<image>Which digit?", RESPONSES, images=[picture(3)])
    for url in (IMAGES["data URI"](picture(3)), str(tmp_path / "3.png"), f"file://{tmp_path / '3.png'}"):
        for image_url in (url, {"url": url}, {"url": url, "detail": "high"}):
            content = [{"type": "image_url", "image_url": image_url}, {"type": "text", "text": "Which digit?"}]
            assert model.score([{"role": "user", "content": content}], RESPONSES) == expected
    for address in ("https://example.com/3.png", "s3://bucket/3.png"):
        content[0] = {"type": "image_url", "image_url": {"url": address}}
        with pytest.raises(DataError, match="download it and give its path"):
            model.score([{"role": "user", "content": content}], RESPONSES)


ARRAY = np.zeros((28, 56, 3), np.uint8)
TENSOR = torch.zeros(3, 28, 56)
WRONG: dict[str, tuple[Any, str]] = {
    "channels first": (ARRAY.transpose(2, 0, 1), r"\(3, 28, 56\).*transpose\(1, 2, 0\)"),
    "grey": (ARRAY[:, :, 0], r"\(28, 56\).*PIL\.Image\.fromarray"),
    "four channels": (np.zeros((28, 56, 4), np.uint8), r"\(28, 56, 4\).*PIL\.Image\.fromarray"),
    "empty": (ARRAY[:0], r"\(0, 56, 3\)"),
    "floating point": (ARRAY / 255, r"float64.*uint8"),
    "16 bits": (ARRAY.astype(np.uint16), "uint16"),
    "tensor with channels last": (TENSOR.permute(1, 2, 0), r"\(28, 56, 3\).*permute\(2, 0, 1\)"),
    "batch of tensors": (TENSOR[None], r"\(1, 3, 28, 56\).*list of tensors"),
    "integers": (TENSOR.long(), "int64.*uint8"),
    "up to 255": (TENSOR + 255, "from 255 to 255.*0 to 1"),
    "normalised": (TENSOR - 1.5, "from -1.5 to -1.5.*normalization"),
    "not a number": (TENSOR * torch.nan, "nan.*0 to 1"),
    "number": (7, "a path, bytes or a data URI is needed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays_are_refused(model: Scorer, name: str) -> None:
    """Nothing is guessed: the error names the image, what was given and what is needed."""
    image, message = WRONG[name]
    with pytest.raises(DataError, match=rf"images\[1\].*{message}"):
        model.score("What is it?", RESPONSES, images=[picture(0), image])
    if name != "number":
        part = {"type": "image", "image": image}
        with pytest.raises(DataError, match=rf"`prompt\[0\]`: part 0: image.*{message}"):
            model.score([{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}], RESPONSES)


def test_one_image_instead_of_a_list_is_refused(model: Scorer) -> None:
    """An array would be iterated by its rows, and a path by its letters."""
    for image in (picture(0), np.asarray(picture(0)), TENSOR, "0.png"):
        with pytest.raises(DataError, match=r"images=\[|list of images"):
            model.score("What is it?", RESPONSES, images=image)  # type: ignore[arg-type]


def rows_with_pictures(folder: Path) -> list[dict[str, Any]]:
    """Return pairs with and without pictures, and groups of one to four responses."""
    rows = pair_rows(4, folder=folder)
    for row in rows:
        row["images"] = [str(folder / name) for name in row["images"]]
    rows += pair_rows(3, seed=1)
    for index in range(1, 5):
        prompt = [{"role": "user", "content": "Which?"}]
        row: dict[str, Any] = {"id": f"group-{index}", "prompt": prompt}
        row["responses"] = [f"answer {n}" for n in range(index)]
        rows.append(row | ({"images": [str(folder / "0.png")]} if index % 2 else {}))
    return rows


def test_rows_of_every_kind_have_the_scores_of_the_command(model: Scorer, folder: Path, tmp_path: Path) -> None:
    """A list, an iterator, a data frame, a data set and a file give what `basereward score` writes, and what `score`
    gives for each row."""
    rows = rows_with_pictures(tmp_path)
    file = write_rows(tmp_path / "rows.jsonl", rows)
    score(str(folder), str(file), out=str(tmp_path / "scores.jsonl"))
    expected = [json.loads(line)["scores"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [len(scores) for scores in expected] == [2] * 7 + [1, 2, 3, 4]
    names = dict.fromkeys(name for row in rows for name in row)
    # A data set takes its columns from the first row.
    whole = [{name: row.get(name) for name in names} for row in rows]
    kinds: list[Any] = [rows, iter(rows), pd.DataFrame(rows), datasets.Dataset.from_list(whole), file]
    for kind in kinds:
        assert model.score_rows(kind) == expected, type(kind)
    for row, scores in zip(rows, expected, strict=True):
        responses = row.get("responses") or [row["chosen"][0]["content"], row["rejected"][0]["content"]]
        alone = model.score(row["prompt"], responses, images=row.get("images", []))
        assert alone == pytest.approx(scores, rel=0, abs=1e-5)
    for tokens in (1, 100_000):
        for scores, wanted in zip(model.score_rows(rows, tokens=tokens), expected, strict=True):
            assert scores == pytest.approx(wanted, rel=0, abs=1e-5)


def test_rows_with_decoded_images(model: Scorer) -> None:
    """Arrays and tensors in cells of dicts and of a data frame are images, and not lists of numbers."""
    prompt = "Which digit?"
    expected = [model.score(prompt, RESPONSES, images=[picture(index)]) for index in range(3)]
    for form in ("numpy", "torch float32", "bytes"):
        images = [IMAGES[form](picture(index)) for index in range(3)]
        rows = [{"prompt": prompt, "responses": RESPONSES, "images": [image]} for image in images]
        single = [{"prompt": prompt, "responses": RESPONSES, "image": image} for image in images]
        for kind in (rows, pd.DataFrame(rows), single, pd.DataFrame(single)):
            for scores, wanted in zip(model.score_rows(kind), expected, strict=True):
                assert scores == pytest.approx(wanted, rel=0, abs=1e-5), form


def test_columns_and_folders_of_rows(model: Scorer, tmp_path: Path) -> None:
    """Other names of columns, and relative paths of images below a folder."""
    picture(0).save(tmp_path / "0.png")
    expected = model.score("Which digit?", RESPONSES, images=[picture(0)])
    rows = [{"question": "Which digit?", "answers": RESPONSES, "photo": ["0.png"]}]
    columns = {"prompt": "question", "responses": "answers", "images": "photo"}
    assert model.score_rows(rows, columns=columns, images_root=tmp_path) == [expected]
    with pytest.raises(DataError, match=r"0\.png"):
        model.score_rows(rows, columns=columns)


def test_malformed_rows_are_listed(model: Scorer) -> None:
    """All of them are named before anything is scored; what is no rows at all is refused."""
    rows = [{"prompt": "a", "responses": ["b"]}, {"prompt": "a"}, {"prompt": "a", "responses": [3]}]
    with pytest.raises(DataError) as caught:
        model.score_rows(rows)
    assert "rows[1]" in str(caught.value)
    assert "rows[2]" in str(caught.value)
    for wrong in ({"prompt": "a", "responses": ["b"]}, ["a"], 3):
        with pytest.raises(DataError, match="dict"):
            model.score_rows(wrong)  # type: ignore[arg-type]
    for nothing in ([], iter(()), pd.DataFrame()):
        assert model.score_rows(nothing) == []


def test_mlflow_model_takes_videos_in_every_form(model: Scorer) -> None:
    """In the prompt, and in a column; two columns for one thing, and paths of files, are refused."""
    texts = [base64.b64encode(png(picture(number))).decode() for number in (1, 2)]
    frames = [f"data:image/png;base64,{text}" for text in texts]
    expected = model.score("<video>Then?", ["a", "b"], videos=[frames])
    content = [{"type": "video", "video": frames}, {"type": "text", "text": "Then?"}]
    rows: list[dict[str, Any]] = [
        {"prompt": [{"role": "user", "content": content}]},
        {"prompt": "<video>Then?", "videos": [texts]},
        {"prompt": "<video>Then?", "videos": [{"frames": texts, "fps": 2}], "video": float("nan")},
        {"prompt": "<video>Then?", "video": frames},
    ]
    for row in rows:
        [predicted] = MlflowScorer(model).predict([row | {"responses": ["a", "b"]}])
        assert predicted["scores"] == pytest.approx(expected, abs=1e-6)
    for wrong in ({"videos": [frames], "video": frames}, {"videos": ["/etc"]}, {"videos": [["/etc/hostname"]]}):
        with pytest.raises(DataError):
            MlflowScorer(model).predict([{"prompt": "<video>Then?", "responses": ["a"], **wrong}])


def test_model_and_ensemble_have_one_type(model: Scorer, folder: Path) -> None:
    """Both are a `RewardScorer`; the mean of a model with itself has its scores, by every method."""
    ensemble = Ensemble([Member(name, folder, model_digest(folder)) for name in "ab"], Rule("mean", members=2))
    rows = pair_rows(3)
    for scorer in (model, ensemble):
        assert isinstance(scorer, basereward.RewardScorer)
        assert scorer.to("cpu") is scorer
        assert str(scorer.device) == "cpu"
        assert scorer.score_rows(rows) == model.score_rows(rows)
        assert scorer.score("Which digit?", RESPONSES) == model.score("Which digit?", RESPONSES)
    assert (model.scores, ensemble.scores) == ({"mean": 0.5, "std": 2.0}, {})
    with pytest.raises(ModelError, match="score"):
        ensemble.prompt("Which digit?")
