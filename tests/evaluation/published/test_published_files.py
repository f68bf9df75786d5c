"""Test that benchmark files as their authors publish them are read or refused with advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.errors import DataError
from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.benchmark_columns import columns_table, layouts_table
from tests.fixtures.published.benchmarks.benchmark_rows import multimodal_rewardbench, rewardbench, rm_bench
from tests.fixtures.published.writing import write_jsonl

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's benchmarks."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def opened(name: str, folder: Path, *rows: dict[str, Any], overrides: tuple[str, ...] = ()) -> Benchmark:
    """Load a benchmark with these rows."""
    write_jsonl(folder / "rows.jsonl", list(rows))
    return load_benchmark(name, overrides=[f"data={folder / 'rows.jsonl'}", *overrides])


def refused(benchmark: Benchmark) -> str:
    """Return the error message for the rows of a benchmark."""
    with pytest.raises(DataError) as raised:
        _ = benchmark.items
    return str(raised.value)


def test_documentation_lists_the_columns_of_every_benchmark() -> None:
    """docs/benchmarks.md has the tables of columns and of layouts that the code generates."""
    assert columns_table() in (ROOT / "docs" / "benchmarks.md").read_text()
    assert columns_table().count("`vl_rewardbench`") == 1
    assert layouts_table() in (ROOT / "docs" / "benchmarks.md").read_text()


@pytest.mark.parametrize("text", ["", " \n", None])
def test_missing_question_is_refused(text: str | None, tmp_path: Path) -> None:
    """The message names the file that has the questions and the script that writes it."""
    row = multimodal_rewardbench("nocaps-1", "knowledge") | {"Text": text}
    message = refused(opened("multimodal_rewardbench", tmp_path, multimodal_rewardbench("a", "vqa"), row))
    assert "all_data.json" in message
    assert "0_download_data.py" in message
    assert "rows.jsonl:2" in message
    assert "all_data.json" in (ROOT / "experiments" / "benchmarks" / "multimodal_rewardbench.yaml").read_text()


@pytest.mark.parametrize("prompt", ["", " ", "\n"])
def test_empty_prompt_is_refused(prompt: str, tmp_path: Path) -> None:
    """A blank prompt is refused with the reason empty_prompt."""
    row = rewardbench("hep-go") | {"prompt": prompt}
    assert "empty_prompt" in refused(opened("rewardbench", tmp_path, row))


def test_rm_bench_file_of_one_domain_needs_its_domain(tmp_path: Path) -> None:
    """Without a domain the file is refused with advice. `protocol.domain` sets it, and a domain in the row takes
    precedence."""
    row = {key: value for key, value in rm_bench("1", "chat").items() if key != "domain"}
    message = refused(opened("rm_bench", tmp_path, row))
    assert "total_dataset.json" in message
    assert "protocol.domain=" in message
    (item,) = opened("rm_bench", tmp_path, row, overrides=("protocol.domain=safety-refuse",)).items
    assert dict(item.labels) == {"domain": "safety", "part": "safety-refuse"}
    (item,) = opened("rm_bench", tmp_path, rm_bench("1", "code"), overrides=("protocol.domain=chat",)).items
    assert item.labels["domain"] == "code"


ABOUT = {"id": "wildvision-1", "query": "What?", "image": "1.png"}
PAIR = {"chosen": "A cup.", "rejected": "A jar."}


def test_vl_rewardbench_with_chosen_and_rejected(tmp_path: Path) -> None:
    """These columns give the same item as the hub's columns."""
    hub = {"response": ["A jar.", "A cup."], "human_ranking": [1, 0]}
    first, second = opened("vl_rewardbench", tmp_path, ABOUT | PAIR, ABOUT | hub).items
    for item in (first, second):
        assert item.responses[item.right[0]] == "A cup."
        assert item.responses[item.wrong[0]] == "A jar."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ABOUT, "`chosen` and `rejected`"),
        (ABOUT | {"chosen": "a"}, "missing or empty: rejected"),
        (ABOUT | {"response": ["a", "b"]}, "missing or empty: human_ranking"),
        (ABOUT | PAIR | {"response": ["a", "b"], "human_ranking": [0, 1]}, "conflicting_columns"),
        (PAIR | {"id": "x", "query": "?"}, "missing or empty: image"),
    ],
)
def test_incomplete_pair_is_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The message names the missing columns."""
    assert message in refused(opened("vl_rewardbench", tmp_path, row))


def authors_row(**more: Any) -> dict[str, Any]:
    """Return a pair of Multimodal RewardBench 2 in the format of its repository."""
    answers = {
        "response_a": {
            "model_name": "a",
            "response_content": [["text", "See "], ["image", "images/3.png"], ["text", "."]],
        },
        "response_b": {"model_name": "b", "response_content": [["text", "The jar."]]},
    }
    return {"id": "blink_1", "chosen": "B", "prompt_source": "blink", "human_annotations": [], **answers, **more}


def test_multimodal_rewardbench_2_files_of_the_authors(tmp_path: Path) -> None:
    """Prompt and answers are lists of parts, and the pictures keep their positions."""
    prompt = [["image", "1.png"], ["text", "\nand "], ["image", "2.png"], ["text", ": which is nearer?"]]
    (item,) = opened("multimodal_rewardbench_2", tmp_path, authors_row(prompt_content=prompt)).items
    assert item.id == "blink_1"
    assert item.prompt == "<image>\nand <image>: which is nearer?"
    assert item.images == ("1.png", "2.png")
    assert item.responses == ("See <image>.", "The jar.")
    assert item.right == (1,)
    assert dict(item.labels) == {"source": "blink", "answers": "with_images"}


def test_files_without_prompts_are_refused(tmp_path: Path) -> None:
    """The message names the script that adds the prompts and the file that it writes."""
    message = refused(opened("multimodal_rewardbench_2", tmp_path, authors_row()))
    assert "run_release.sh" in message
    assert "reasoning.json" in message
    without_id = {key: value for key, value in authors_row(prompt_content=[["text", "?"]]).items() if key != "id"}
    assert "pair_id" in refused(opened("multimodal_rewardbench_2", tmp_path, without_id))


@pytest.mark.parametrize("content", ["text", [["video", "1.mp4"]], [["text"]], [["text", 5]], None])
def test_malformed_content_is_refused(content: Any, tmp_path: Path) -> None:
    """The message names the column."""
    row = authors_row(prompt_content=[["text", "?"]], response_b={"response_content": content})
    assert "response_b.response_content" in refused(opened("multimodal_rewardbench_2", tmp_path, row))


def test_rows_are_read_from_the_authors_array(tmp_path: Path) -> None:
    """All rows of a JSON array are read."""
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([authors_row(prompt_content=[["text", "?"]])] * 3))
    assert len(load_benchmark("multimodal_rewardbench_2", overrides=[f"data={file}"]).items) == 3
