"""`basereward annotate`: reasoning that agrees with the labels, through faults and kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from basereward.cli.commands.annotate import format_text
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import DataError
from basereward.evaluation.annotation.annotate import annotate
from tests.helpers.chat_servers import serving, words
from tests.helpers.support import picture

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent


def write_rows(folder: Path, *, count: int = 12, images: bool = False) -> Path:
    """Pairs whose better answer is the even number."""
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
    """The number of the even answer in a request."""
    shown = re.findall(r"Answer \d: (\d)", words(body))
    return 1 + [int(each) % 2 for each in shown].index(0)


def says(verdict: int) -> str:
    """In the agreed form."""
    return f"<think>{3 - verdict} is odd.</think><answer>{verdict}</answer>"


def read(file: Path) -> list[dict[str, Any]]:
    """Its rows."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(source: Path, url: str, out: Path, **options: Any) -> dict[str, Any]:
    """On all rows of a file."""
    keywords = {"overrides": ["val=0.0", "test=0.0"], **options}
    return annotate(str(source), model="judge", endpoint=url, out=str(out), **keywords)


def test_reasoning_that_agrees_is_kept(tmp_path: Path) -> None:
    """Every other pair shows the winner first; the rows are ones that can be trained on, and their pictures are found
    from where they lie."""
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
    trained = Jsonl("annotated", path=str(out), val=0.0, test=0.0)
    assert len(trained.groups("train")) == 12


def test_attempts_are_the_difficulty(tmp_path: Path) -> None:
    """Of every four rows one agrees at the first attempt, one at the second, one is unreadable and then agrees, and
    one never does."""
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
    never = read(tmp_path / "told.disagreed.jsonl")
    assert {int(row["id"].split("/")[0][1:]) % 4 for row in never} == {3}
    assert all(row["attempts"] == 4 and len(row["texts"]) == 3 for row in never)
    for group in read_rows(tmp_path / "told.disagreed.jsonl"):  # which can be trained on as pairs
        (preference,) = group.preferences
        assert (group.responses[preference.winner], group.reasonings) == ("4", ())
    assert len({body["seed"] for body in server.asked}) == 3


def test_a_bare_verdict_is_no_reasoning(tmp_path: Path) -> None:
    """Nothing would be learned of it: it is counted, and the pair is asked again."""
    source = write_rows(tmp_path)
    seen: set[str] = set()

    def reply(body: dict[str, Any], number: int) -> str:
        new = words(body) not in seen
        seen.add(words(body))
        return f"<think> </think><answer>{better(body)}</answer>" if new else says(better(body))

    with serving(reply) as server:
        result = run(source, server.url, tmp_path / "told.jsonl", attempts=2)
    assert (result["bare"], result["agreed"], result["by_attempts"]) == (12, 12, {"1": 0, "2": 12})
    assert all(row["reasoning"] for row in read(tmp_path / "told.jsonl"))


def test_what_is_no_pair_is_counted(tmp_path: Path) -> None:
    """A blank answer and a tie, each by its reason; and the command tells them, with the part that it read."""
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


def test_what_failed_is_asked_again_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else is."""
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


def test_a_call_that_is_killed_goes_on(tmp_path: Path) -> None:
    """By SIGKILL, in the midst, with a line that was cut: what was answered is not asked again, and nothing is
    lost."""
    source, out = write_rows(tmp_path, count=40), tmp_path / "told.jsonl"
    with serving(lambda body, number: says(better(body)), delay_s=0.05) as server:
        command = [
            BIN / "basereward", "annotate", source, "val=0.0", "test=0.0", "--model", "judge", "--endpoint", server.url,
            "--out", out, "--concurrency", "2", "--json",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        answers = tmp_path / "told.answers.jsonl"
        while not answers.is_file() or len(answers.read_bytes().splitlines()) < 8:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        before = len(answers.read_bytes().splitlines()) - 1
        with answers.open("a") as file:
            file.write('{"id": "r3')
        assert not out.exists()
        time.sleep(0.2)
        asked = len(server.asked)
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["agreed"] == 40
        assert len(server.asked) - asked <= 40 - before + 1  # a whole last line may have been there
        assert len(read(out)) == len({row["id"] for row in read(out)}) == 40
        again = subprocess.run(command, capture_output=True, check=False)
        assert json.loads(again.stdout)["agreed"] == 40
        assert json.loads(again.stdout)["fresh"] == 0
        assert len(server.asked) - asked <= 40 - before + 1
        whole = run(source, server.url, tmp_path / "whole.jsonl")
        assert whole["agreed"] == 40
        assert (tmp_path / "whole.jsonl").read_bytes() == out.read_bytes()


def test_answers_to_something_else_are_not_taken(tmp_path: Path) -> None:
    """Another prompt asks something else, and so does another answer under the same id; the error names what
    changed."""
    source, out = write_rows(tmp_path), tmp_path / "told.jsonl"
    with serving(lambda body, number: says(better(body))) as server:
        run(source, server.url, out)
        mine = tmp_path / "mine.txt"
        mine.write_text("{question} Answer 1: {answer_1} Answer 2: {answer_2} Which?")
        with pytest.raises(DataError, match="prompt_sha256 changed"):
            run(source, server.url, out, prompt_file=str(mine))
        source.write_text(source.read_text().replace('"7"', '"9"'))
        with pytest.raises(DataError, match="pairs changed"):
            run(source, server.url, out)


def test_at_most_so_many_pairs(tmp_path: Path) -> None:
    """The same ones for the same seed."""
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
def test_a_user_s_mistakes(arguments: list[str], message: str, tmp_path: Path) -> None:
    """Exit code 2, what to do, and no traceback."""
    source = write_rows(tmp_path)
    command = [BIN / "basereward", "annotate", source, "--model", "judge", "--out", tmp_path / "o.jsonl", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
