"""Test `basereward annotate`: reasoning that agrees with the labels, through failures and kills."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from basereward.cli.commands.annotate import format_text
from basereward.data.schema.group import Group, PlacedImage, Video, Visual
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import DataError
from basereward.evaluation.annotation.annotate import annotate
from basereward.evaluation.annotation.asking import Opening, _PairAskingWork
from basereward.evaluation.annotation.rows import Pair
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from tests.helpers.chat_servers import serving, words
from tests.helpers.forked_command import ForkedCommand, run_command
from tests.helpers.support import picture

pytestmark = pytest.mark.slow


def write_rows(folder: Path, *, count: int = 12, images: bool = False) -> Path:
    """Write pairs whose chosen answer is the even number."""
    rows = []
    for i in range(count):
        row: dict[str, Any] = {
            "id": f"r{i}",
            "prompt": f"Row {i}: name an even number.",
            "chosen": "4",
            "rejected": "7",
        }
        if images:
            picture(i).save(folder / f"{i}.png")
            row["images"] = [f"{i}.png"]
        rows.append(row)
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def better(body: dict[str, Any]) -> int:
    """Return the position of the even answer in a request."""
    answers = re.findall(r"Answer \d: (\d)", words(body))
    return 1 + [int(answer) % 2 for answer in answers].index(0)


def says(verdict: int) -> str:
    """Return an answer in the format of the prompt."""
    return f"<think>{3 - verdict} is odd.</think><answer>{verdict}</answer>"


def read(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(source: Path, url: str, out: Path, **options: Any) -> dict[str, Any]:
    """Annotate all rows of a file."""
    keywords = {"overrides": ["val=0.0", "test=0.0"], "model": "judge", **options}
    return annotate(str(source), endpoint=url, out=str(out), **keywords)


def test_agreeing_reasoning_is_written(tmp_path: Path) -> None:
    """Half of the pairs show the chosen answer first. The written rows can be trained on, and their picture paths
    resolve from the output's folder."""
    source = write_rows(tmp_path, images=True)
    out = tmp_path / "sub" / "told.jsonl"
    out.parent.mkdir()
    with serving(lambda body, number: says(better(body))) as server:
        result = run(source, server.url, out)
    assert (result["pairs"], result["agreed"], result["disagreed"], result["unread"]) == (12, 12, 0, 0)
    assert (result["prompt_tokens"], result["tokens"]) == (12 * 7, 12 * 3)
    rows = read(out)
    assert Counter(row["verdict"] for row in rows) == {1: 6, 2: 6}
    groups = list(read_rows(out))
    assert len(groups) == 12
    for group, row in zip(groups, rows, strict=True):
        (preference,) = group.preferences
        assert group.responses[preference.winner] == "4"
        assert preference.winner == row["verdict"] - 1
        (reasoning,) = group.reasonings
        assert (reasoning.first, reasoning.second) == (0, 1)
        assert reasoning.text == f"{2 - preference.winner} is odd."
        assert row["attempts"] == 1
        assert Path(str(group.images[0])).is_file()
    training_source = Jsonl("annotated", path=str(out), val=0.0, test=0.0)
    assert len(training_source.groups("train")) == 12


def test_attempts_are_counted(tmp_path: Path) -> None:
    """Of every four rows one agrees at the first attempt, one at the second, one is unreadable and then agrees, and one
    never agrees."""
    source = write_rows(tmp_path)
    tries: Counter[str] = Counter()

    def reply(body: dict[str, Any], number: int) -> str:
        row = int(re.findall(r"Row (\d+)", words(body))[0])
        tries[str(row)] += 1
        right = better(body)
        first = {0: says(right), 1: says(3 - right), 2: "I cannot tell.", 3: says(3 - right)}[row % 4]
        return first if tries[str(row)] == 1 or row % 4 == 3 else says(right)

    with serving(reply) as server:
        result = run(source, server.url, tmp_path / "told.jsonl", attempts=3)
    assert result["by_attempts"] == {"1": 3, "2": 6, "3": 0}
    assert (result["agreed"], result["disagreed"], result["unread"]) == (9, 3, 3)
    assert len(server.asked) == 3 + 6 * 2 + 3 * 3
    disagreed = read(tmp_path / "told.disagreed.jsonl")
    assert {int(row["id"].split("/")[0][1:]) % 4 for row in disagreed} == {3}
    assert all(row["attempts"] == 4 and len(row["texts"]) == 3 for row in disagreed)
    for group in read_rows(tmp_path / "told.disagreed.jsonl"):  # these rows can be trained on as pairs
        (preference,) = group.preferences
        assert (group.responses[preference.winner], group.reasonings) == ("4", ())
    assert len({body["seed"] for body in server.asked}) == len(server.asked)


def test_verdict_without_reasoning_is_requested_again(tmp_path: Path) -> None:
    """A verdict with an empty reasoning is counted as bare, and the pair is sent again."""
    source = write_rows(tmp_path)
    earlier_requests: set[str] = set()

    def reply(body: dict[str, Any], number: int) -> str:
        is_new = words(body) not in earlier_requests
        earlier_requests.add(words(body))
        return f"<think> </think><answer>{better(body)}</answer>" if is_new else says(better(body))

    with serving(reply) as server:
        result = run(source, server.url, tmp_path / "told.jsonl", attempts=2)
    assert (result["bare"], result["agreed"], result["by_attempts"]) == (12, 12, {"1": 0, "2": 12})
    assert all(row["reasoning"] for row in read(tmp_path / "told.jsonl"))


def test_rows_that_are_no_pairs_are_counted(tmp_path: Path) -> None:
    """A blank answer and a tie are counted by reason, and the command prints the counts and the split."""
    source = write_rows(tmp_path)
    blank = {"id": "blank", "prompt": "Row 12", "chosen": "4", "rejected": " "}
    tie = {"id": "tie", "prompt": "Row 13", "responses": ["4", "7"], "ranking": [0, 0]}
    with source.open("a") as file:
        file.write(json.dumps(blank) + "\n" + json.dumps(tie) + "\n")
    with serving(lambda body, number: says(better(body))) as server:
        result = run(source, server.url, tmp_path / "told.jsonl")
    assert (result["lost"], result["pairs"], result["split"]) == ({"empty_response": 1, "tie": 1}, 12, "train")
    lines = list(format_text(result))
    assert lines[0].startswith("12 of 12 pairs of the part train agreed")
    assert lines[1:3] == ["lost: 1 (empty_response)", "lost: 1 (tie)"]


def test_next_call_repeats_only_the_failed_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call with a failed request raises, and the next call sends that request alone."""
    source, out = write_rows(tmp_path), tmp_path / "told.jsonl"
    with serving(lambda body, number: 400 if "Row 5" in words(body) else says(better(body))) as server:
        with pytest.raises(DataError, match="1 requests were not answered: status 400"):
            run(source, server.url, out)
        assert len(read(out)) == 11
        url = server.url
        server.reply = lambda body, number: says(better(body))
        result = run(source, url, out)
        assert result["agreed"] == 12
        assert len(server.asked) == 13


def test_killed_call_resumes(tmp_path: Path) -> None:
    """A call is killed by SIGKILL, and its last line is incomplete. The next call repeats no answered request and loses
    no row."""
    source, out = write_rows(tmp_path, count=40), tmp_path / "told.jsonl"
    with serving(lambda body, number: says(better(body)), delay_s=0.05) as server:
        command = [
            "annotate", source, "val=0.0", "test=0.0", "--model", "judge", "--endpoint", server.url,
            "--out", out, "--concurrency", "2", "--json",
        ]  # fmt: skip
        process = ForkedCommand(*command)
        answers = tmp_path / "told.answers.jsonl"
        while not answers.is_file() or len(answers.read_bytes().splitlines()) < 8:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.kill()
        process.communicate()
        answered = len(answers.read_bytes().splitlines()) - 1
        with answers.open("a") as file:
            file.write('{"id": "r3')
        assert not out.exists()
        time.sleep(0.2)
        requests_before = len(server.asked)
        resumed = run_command(*command)
        assert resumed.returncode == 0, resumed.stderr
        assert json.loads(resumed.stdout)["agreed"] == 40
        assert len(server.asked) - requests_before <= 40 - answered + 1  # the last line may have been complete
        assert len(read(out)) == len({row["id"] for row in read(out)}) == 40
        repeated = run_command(*command)
        assert json.loads(repeated.stdout)["agreed"] == 40
        assert json.loads(repeated.stdout)["fresh"] == 0
        assert len(server.asked) - requests_before <= 40 - answered + 1
        uninterrupted = run(source, server.url, tmp_path / "whole.jsonl")
        assert uninterrupted["agreed"] == 40
        assert (tmp_path / "whole.jsonl").read_bytes() == out.read_bytes()


def test_answers_to_another_prompt_or_pair_are_refused(tmp_path: Path) -> None:
    """Another prompt, and another answer under the same id, are errors that name what changed."""
    source, out = write_rows(tmp_path), tmp_path / "told.jsonl"
    with serving(lambda body, number: says(better(body))) as server:
        run(source, server.url, out)
        prompt_file = tmp_path / "mine.txt"
        prompt_file.write_text("{question} Answer 1: {answer_1} Answer 2: {answer_2} Which?")
        with pytest.raises(DataError, match="prompt_sha256 changed"):
            run(source, server.url, out, prompt_file=str(prompt_file))
        source.write_text(source.read_text().replace('"7"', '"9"'))
        with pytest.raises(DataError, match="pairs changed"):
            run(source, server.url, out)


def test_exchanged_pictures_are_refused(tmp_path: Path) -> None:
    """Another image in the file of a prompt, under the same id and path, is another request: the stored answers are
    refused. Once the file is put back, all of them are found."""
    source, out = write_rows(tmp_path, images=True), tmp_path / "told.jsonl"
    file, content = tmp_path / "3.png", (tmp_path / "3.png").read_bytes()
    with serving(lambda body, number: says(better(body))) as server:
        assert run(source, server.url, out)["fresh"] == 12
        picture(8).save(file)
        with pytest.raises(DataError, match="pairs changed"):
            run(source, server.url, out)
        file.write_bytes(content)
        assert run(source, server.url, out)["fresh"] == 0


@pytest.mark.parametrize("part", ["image", "video of images", "video file", "image in a response"])
def test_everything_that_a_judge_sees_names_a_shard(part: str, tmp_path: Path) -> None:
    """Other content of a file, under the same id, path and text, gives a shard of pairs another name; that of the other
    shard stays."""
    file = tmp_path / "seen.png"
    visual: Visual = {"video of images": Video((str(file),)), "video file": Video(file=file)}.get(part, file)
    images = (visual,) if part != "image in a response" else ()
    placed = ((PlacedImage(0, file),), ()) if part == "image in a response" else ()
    seen = Group("a", "s", (), ("", "5"), images=images, response_images=placed)
    pairs = [Pair("a", seen, 0, 1, winner_first=True), Pair("b", Group("b", "s", (), ("4", "5")), 0, 1, True)]
    settings = (load_prompt("pairwise_thinking", None, fields=PAIRWISE), None, SamplingParams(max_tokens=9), 1, None)
    work = _PairAskingWork(Opening("m", "local"), *settings, None, pairs=pairs, known={}, trusted=False)
    keys: list[tuple[str, str]] = []
    for number in (1, 2, 1):
        picture(number).save(file)
        keys.append((work.key(range(1)), work.key(range(1, 2))))
    assert keys[0] == keys[2]
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]


def test_limit_selects_the_same_pairs_for_the_same_seed(tmp_path: Path) -> None:
    """Two calls with `limit=5` and one seed annotate the same five pairs."""
    source = write_rows(tmp_path)
    ids = []
    with serving(lambda body, number: says(better(body))) as server:
        for name in ("a", "b"):
            run(source, server.url, tmp_path / f"{name}.jsonl", limit=5, seed=4)
            ids.append([row["id"] for row in read(tmp_path / f"{name}.jsonl")])
    assert ids[0] == ids[1]
    assert len(ids[0]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--endpoint", "http://localhost:1/v1", "--attempts", "0"], "at least 1"),
        (["--endpoint", "http://localhost:1/v1", "--temperature", "0"], "--attempts 1"),
        (["--endpoint", "nowhere"], "no address"),
        (["--endpoint", "http://localhost:1/v1", "--prompt", "critique"], "fields"),
        ([], "--endpoint is needed"),
    ],
)
def test_invalid_options_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    """Exit code 2, a message with the option to change, and no traceback."""
    source = write_rows(tmp_path)
    completed = run_command("annotate", source, "--model", "judge", "--out", tmp_path / "o.jsonl", *arguments)
    assert completed.returncode == 2
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr
