"""Groups made by hand, and groups of real rows where these are available."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from basereward.data.schema.group import IMAGE, Group, Image, Part, Preference, Turn
from basereward.data.sources.jsonl import Jsonl

MakeGroup = Callable[..., Group]
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@pytest.fixture(scope="session")
def make_group() -> MakeGroup:
    """Return a function that makes a group of one question; by default the first response wins."""

    def make(
        prompt: str,
        *responses: str,
        images: Sequence[Image] = (),
        preferences: Sequence[Preference] | None = None,
        group_id: str = "g",
    ) -> Group:
        if preferences is None:
            preferences = (Preference(0, 1),) if len(responses) > 1 else ()
        turn = Turn("user", (*(IMAGE,) * len(images), Part(prompt)))
        return Group(group_id, "hand", (turn,), responses, tuple(preferences), tuple(images))

    return make


@pytest.fixture(scope="session")
def vl_groups(real_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    """The 1,250 rows of VL-RewardBench as a training source, without their images."""
    rows = json.loads((real_rows / "benchmarks" / "vl_rewardbench.json").read_text())
    path = tmp_path_factory.mktemp("vl") / "vl.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "query", "responses": "response", "ranking": "human_ranking"}
    return list(Jsonl("vl", path=str(path), columns=columns, val=0, test=0).groups("train"))


@pytest.fixture(scope="session")
def dialogues(real_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Group]:
    """300 text preferences with one or several turns."""
    rows = json.loads((real_rows / "preferences" / "dpo_en_demo.json").read_text())
    converted = [
        {
            "prompt": [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
            "chosen": row["chosen"]["value"],
            "rejected": row["rejected"]["value"],
        }
        for row in rows
    ]
    path = tmp_path_factory.mktemp("dpo") / "dpo.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in converted))
    return list(Jsonl("dpo", path=str(path), val=0, test=0).groups("train"))


@pytest.fixture(scope="session")
def photos(real_rows: Path) -> list[Path]:
    """Paths of 12 photographs and 32 generated images."""
    folder = real_rows / "images"
    return [*sorted(folder.rglob("*.jpg")), *sorted(folder.rglob("*.png"))]
