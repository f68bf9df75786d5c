"""Law 11: served equals scored, exported equals scored.

The same 200 rows are scored by every path that can carry them: in Python, by the command, by a server in each of its
protocols, by the reward functions of other trainers, by MLflow, and by exports in a process without this package. All
floats equal those of `load(model).score`, row by row, to 1e-5 in float32.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

import basereward.rewards
from basereward import load
from basereward.cli import main
from basereward.inference.aggregation import Rule
from basereward.inference.ensemble import Ensemble, Member, model_digest
from basereward.inference.export.export_model import export_model
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import recipe_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe
from basereward.runs.tracking.mlflow_model import write_mlflow_model
from tests.helpers.exported_process import scores_elsewhere
from tests.helpers.scoring_server import ScoringServer
from tests.helpers.support import checkpoint, fill_adapters, picture, write_rows

pytestmark = pytest.mark.slow

ROWS = 200
WRITTEN_ROWS = 48
"""For heads that generate text, which takes many times as long."""
TOLERANCE = 1e-5
MODELS: dict[str, tuple[dict[str, Any], bool]] = {
    "linear": ({"_target_": "linear"}, True),
    "mlp": ({"_target_": "mlp"}, False),
    "critic": ({"_target_": "critic", "max_tokens": 2, "prompt": "critique_brief"}, False),
    "generative": ({"_target_": "generative", "prompt": "pairwise_brief"}, False),
}
"""The heads, and whether the model has adapters."""
KINDS = (*MODELS, "ensemble")
SERVED = ("linear", "critic", "generative", "ensemble")
"""Opening a model in a process takes seconds. The head `mlp` is served as a member of the ensemble."""


@dataclass(frozen=True)
class Row:
    """A prompt with its responses.

    Attributes:
        messages: with image parts in the places of the images.
        responses: one to eight.
        images: files.
    """

    messages: list[dict[str, Any]]
    responses: list[str]
    images: list[str]

    @property
    def is_text(self) -> bool:
        return not self.images

    @property
    def data_uris(self) -> list[str]:
        """The images as they stand in JSON."""
        contents = [base64.b64encode(Path(file).read_bytes()).decode() for file in self.images]
        return [f"data:image/png;base64,{content}" for content in contents]

    def messages_with_images(self, *, form: str) -> list[dict[str, Any]]:
        """Return the messages with the images in their parts, in the form of `openai` or `transformers`."""
        images = iter(self.data_uris if form == "openai" else self.images)
        messages = []
        for message in self.messages:
            content = message["content"]
            if not isinstance(content, str):
                content = [part if part["type"] == "text" else _image_part(next(images), form) for part in content]
            messages.append({"role": message["role"], "content": content})
        return messages

    def rendered(self, response: str | None) -> str:
        """Return the text that Qwen's chat template makes, up to the answer or with it."""
        turns = [(message["role"], message["content"]) for message in self.messages]
        text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        return f"{text}<|im_start|>assistant\n" + ("" if response is None else f"{response}<|im_end|>\n")


def _image_part(image: str, form: str) -> dict[str, Any]:
    if form == "openai":
        return {"type": "image_url", "image_url": {"url": image}}
    return {"type": "image", "image": image}


def make_rows(folder: Path) -> list[Row]:
    """Return texts and images, with one and several turns, and groups of one to eight responses."""
    for index in range(20):
        picture(index).save(folder / f"{index}.png")
    rows = []
    for index in range(ROWS):
        question = {"type": "text", "text": f"Question {index}: which digit? " + "Look well. " * (index % 3)}
        earlier = [
            {"role": "system", "content": "Judge digits."},
            {"role": "user", "content": f"Hello {index}."},
            {"role": "assistant", "content": "Hello! What do you need?"},
        ]
        files = [str(folder / f"{(index + k) % 20}.png") for k in range((0, 1, 0, 2)[index % 4])]
        content: Any = [*[{"type": "image"}] * len(files), question] if files else question["text"]
        messages = [*(earlier if index % 4 >= 2 else []), {"role": "user", "content": content}]
        responses = [f"It is {number}" + ", surely" * ((index + number) % 4) for number in range(1 + index % 8)]
        # Images and turns repeat every four rows, and the numbers of responses every eight.
        rows.append(Row(messages, responses[: 1 + (index + index // 8) % 8], files))
    return rows


@dataclass(frozen=True)
class Saved:
    """A saved model with what it scores.

    Attributes:
        folder: of the model.
        model: the opened model.
        rows: the rows that it scores.
        expected: the scores of `model.score`, row by row.
    """

    folder: Path
    model: RewardScorer
    rows: list[Row]
    expected: list[list[float]]

    def check(self, scores: Sequence[Sequence[float]], places: Sequence[int] | None = None) -> None:
        """Compare the scores of some rows, by default all."""
        places = range(len(self.rows)) if places is None else places
        assert len(scores) == len(places)
        for place, of_row in zip(places, scores, strict=True):
            assert list(of_row) == pytest.approx(self.expected[place], rel=0, abs=TOLERANCE), place

    def texts(self) -> list[int]:
        """The places of the rows without images."""
        return [place for place, row in enumerate(self.rows) if row.is_text]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the module."""
    return tmp_path_factory.mktemp("everywhere")


@pytest.fixture(scope="module")
def folders(root: Path) -> dict[str, Path]:
    """Save a model of every kind, with random weights, on one small Qwen2.5-VL."""
    path = checkpoint("qwen2_5_vl", root / "backbone")
    folders: dict[str, Path] = {}
    for name, (head, lora) in MODELS.items():
        recipe = Recipe(
            name=name,
            model=ModelRecipe(
                backbone=BackboneRecipe(path=str(path)), head=head, lora=LoraRecipe(rank=4) if lora else None
            ),
            data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
        )
        encoder = recipe_encoder(recipe, path=str(path))
        model = build_model(recipe.model, path=str(path), seed=0, encoder=encoder).eval()
        torch.manual_seed(1)
        fill_adapters(model)
        folders[name] = root / name
        Scorer(model, encoder=encoder, recipe=recipe, scores={"mean": 0.1, "std": 0.5}).save(folders[name])
    members = [Member(name, folders[name], model_digest(folders[name])) for name in ("linear", "mlp")]
    folders["ensemble"] = root / "ensemble"
    Ensemble(members, Rule("pessimistic", members=2)).save(folders["ensemble"])
    return folders


@pytest.fixture(scope="module")
def servers(folders: dict[str, Path], root: Path) -> Iterator[dict[str, ScoringServer]]:
    """Start the servers; they open the models while the first tests run."""
    started = {name: ScoringServer(folders[name], log=root / f"{name}.log") for name in SERVED}
    yield started
    for server in started.values():
        server.close()


@pytest.fixture(scope="module")
def saved(root: Path, folders: dict[str, Path], servers: dict[str, ScoringServer]) -> Callable[[str], Saved]:
    """Return a function that gives a model by its name with the scores of its rows."""
    pictures = root / "pictures"
    pictures.mkdir()
    rows = make_rows(pictures)
    known: dict[str, Saved] = {}

    def find(name: str) -> Saved:
        if name not in known:
            model = load(folders[name], device="cpu")
            own = rows[:WRITTEN_ROWS] if name in ("critic", "generative") else rows
            # A judge of two responses refuses a single one.
            own = [row for row in own if name != "generative" or len(row.responses) > 1]
            expected = [model.score(row.messages, row.responses, images=row.images) for row in own]
            known[name] = Saved(folders[name], model, own, expected)
        return known[name]

    return find


def test_rows_are_what_they_should_be(saved: Callable[[str], Saved]) -> None:
    """There are 200 rows of every kind, and their scores differ, or the comparisons would compare nothing."""
    rows = saved("mlp").rows
    assert len(rows) == ROWS
    kinds = {(len(row.images), len(row.messages) > 1, len(row.responses)) for row in rows}
    assert {(images, turns) for images, turns, _ in kinds} == {(0, False), (1, False), (0, True), (2, True)}
    assert {count for _, _, count in kinds} == set(range(1, 9))
    assert len({round(scores[0], 4) for scores in saved("mlp").expected}) > ROWS / 2


@pytest.mark.parametrize("name", KINDS)
def test_python_command_and_mlflow(name: str, saved: Callable[[str], Saved], tmp_path: Path) -> None:
    """`score_rows` with images beside the messages and in them, `basereward score`, and MLflow's pyfunc."""
    here = saved(name)
    beside = [{"prompt": row.messages, "responses": row.responses, "images": row.images or None} for row in here.rows]
    here.check(here.model.score_rows(beside))
    for form in ("openai", "transformers"):
        inside = [{"prompt": row.messages_with_images(form=form), "responses": row.responses} for row in here.rows]
        here.check(here.model.score_rows(inside))
    file, out = write_rows(tmp_path / "rows.jsonl", beside), tmp_path / "scores.jsonl"
    assert main(["score", str(here.folder), str(file), "--out", str(out), "--json"]) == 0
    here.check([json.loads(line)["scores"] for line in out.read_text().splitlines()])
    write_mlflow_model(here.folder, metadata={})
    model = mlflow.pyfunc.load_model(str(here.folder))
    served = [{"prompt": row.messages, "responses": row.responses, "images": row.data_uris or None} for row in
              here.rows]  # fmt: skip
    here.check([predicted["scores"] for predicted in model.predict(served)])


@pytest.mark.parametrize("name", SERVED)
def test_server(name: str, saved: Callable[[str], Saved], servers: dict[str, ScoringServer]) -> None:
    """The server's own protocol carries every row; those of RL trainers carry one response at a time, which a judge of
    two responses cannot score alone."""
    here, server = saved(name), servers[name]
    server.wait()

    def native(row: Row) -> list[float]:
        body = {"prompt": row.messages, "responses": row.responses, "images": row.data_uris}
        scores: list[float] = server.post("/score", body)["scores"]
        return scores

    with ThreadPoolExecutor(8) as clients:
        here.check(list(clients.map(native, here.rows)))
    if name != "generative":
        _check_protocols(here, server)


def _check_protocols(here: Saved, server: ScoringServer) -> None:
    """Check the protocols of OpenRLHF, vLLM and verl."""
    texts = here.texts()
    expected = [score for place in texts for score in here.expected[place]]
    queries, prompts, conversations = [], [], []
    for place in texts:
        row = here.rows[place]
        for response in row.responses:
            prompts.append(row.rendered(None))
            queries.append(f"{prompts[-1]}{response}<|im_end|>")
            conversations.append(row.rendered(response))
    rewards = server.post("/get_reward", {"query": queries, "prompts": prompts, "labels": []})["rewards"]
    assert rewards == pytest.approx(expected, rel=0, abs=TOLERANCE)
    classified = server.post("/classify", {"model": "m", "input": conversations, "use_activation": False})["data"]
    assert [entry["probs"][-1] for entry in classified] == pytest.approx(expected, rel=0, abs=TOLERANCE)
    embedded = server.post("/v1/embeddings", {"model": "m", "input": conversations})["data"]
    assert [entry["embedding"][-1] for entry in embedded] == pytest.approx(expected, rel=0, abs=TOLERANCE)
    # Messages carry images too; the last turn is scored.
    for place, row in enumerate(here.rows[:40]):
        messages = [*row.messages_with_images(form="openai"), {"role": "assistant", "content": row.responses[-1]}]
        pooled = server.post("/pooling", {"messages": messages})["data"][0]["data"]
        assert pooled == pytest.approx(here.expected[place][-1:], rel=0, abs=TOLERANCE)
    for place in texts:
        row = here.rows[place]
        if len(row.messages) == 1:
            body = {"query": row.messages[0]["content"], "documents": row.responses}
            results = server.post("/v1/rerank", body)["results"]
            scores = {result["index"]: result["relevance_score"] for result in results}
            here.check([[scores[index] for index in range(len(row.responses))]], [place])


@pytest.mark.parametrize("name", KINDS)
def test_reward_functions(name: str, saved: Callable[[str], Saved]) -> None:
    """Those of TRL and ms-swift get all responses of a prompt together; those of OpenRLHF and verl, one at a time."""
    here = saved(name)
    folder = str(here.folder)
    prompts: list[Any] = []
    completions: list[str] = []
    images: list[list[str] | None] = []
    for row in here.rows:
        prompts += [row.messages] * len(row.responses)
        completions += row.responses
        images += [row.images or None] * len(row.responses)
    trl = basereward.rewards.trl(folder, device="cpu")
    here.check(_by_row(here, trl(prompts, completions, images=images, completion_ids=[])))
    ms_swift = basereward.rewards.ms_swift(folder, device="cpu")
    here.check(_by_row(here, ms_swift(completions, messages=prompts, images=images)))
    if name == "generative":
        return
    verl = basereward.rewards.verl(folder, device="cpu")
    for place, row in enumerate(here.rows[:40]):
        extra = {"prompt": row.messages, "images": row.images}
        here.check([[verl("digits", response, "", extra) for response in row.responses]], [place])
    texts = here.texts()
    rendered = [here.rows[place].rendered(None) for place in texts for _ in here.rows[place].responses]
    answers = [response for place in texts for response in here.rows[place].responses]
    queries = [f"{prompt}{answer}<|im_end|>" for prompt, answer in zip(rendered, answers, strict=True)]
    rewards = basereward.rewards.openrlhf(folder, device="cpu")(queries, rendered, [""] * len(queries))["rewards"]
    expected = [score for place in texts for score in here.expected[place]]
    assert rewards.tolist() == pytest.approx(expected, rel=0, abs=TOLERANCE)


def _by_row(here: Saved, rewards: Sequence[float]) -> list[list[float]]:
    """Cut a list of rewards into those of each row."""
    remaining = iter(rewards)
    return [[next(remaining) for _ in row.responses] for row in here.rows]


def test_exports(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    """Exports of models with and without adapters, opened by transformers in a process without this package."""
    cases = []
    for name in ("linear", "mlp"):
        here = saved(name)
        # Exporting merges the adapters, so the model is opened again.
        export_model(load(here.folder, device="cpu"), tmp_path / name, source=here.folder)
        batches = []
        for row in here.rows:
            turns = [{"role": message["role"], "content": _parts(message["content"])} for message in row.messages]
            answers = [{"role": "assistant", "content": _parts(response)} for response in row.responses]
            batches.append([{"messages": [*turns, answer], "images": row.images} for answer in answers])
        cases.append({"folder": str(tmp_path / name), "opener": "AutoModel", "rows": batches})
    for name, scores in zip(("linear", "mlp"), scores_elsewhere(cases, tmp_path), strict=True):
        saved(name).check(scores)


def _parts(content: Any) -> list[dict[str, Any]]:
    """Return content as a list of parts, as templates of image models expect it."""
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def test_merged_adapters(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    """A model whose adapters were merged, saved and opened again has the scores from before."""
    here = saved("linear")
    opened = load(here.folder, device="cpu")
    assert isinstance(opened, Scorer)
    merged = opened.merged()
    rows = [{"prompt": row.messages, "responses": row.responses, "images": row.images or None} for row in here.rows]
    here.check(merged.score_rows(rows))
    merged.save_pretrained(tmp_path / "merged")
    again = basereward.from_pretrained(tmp_path / "merged", device="cpu")
    here.check(again.score_rows(rows))
