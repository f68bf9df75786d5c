"""Judges behind an endpoint on benchmarks: votes, round-robins, cost, faults."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.data.images.image_store import ImageStore
from basereward.errors import DataError
from basereward.evaluation.items import Decision, Item, JudgedItem
from basereward.evaluation.judging.judge import judge_items
from basereward.evaluation.judging.run_judge import open_judge
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from tests.helpers.benchmark_rows import ANY_SIZE, item, small_benchmark
from tests.helpers.chat_servers import serving, words

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def judged(items: list[Item], url: str, folder: Path, **options: Any) -> tuple[list[JudgedItem], dict[str, float]]:
    """By a judge at an address."""
    judge = open_judge("judge", endpoint=url, **options)
    outcomes, cost = judge_items(judge, items, images=ImageStore(), journal=folder / "partial.jsonl", header={"b": "1"})
    return [JudgedItem(each, outcomes[each.row]) for each in items], cost


def answers(body: dict[str, Any]) -> list[str]:
    """The answers as they are shown."""
    return re.findall(r"Answer \d: (\S+)", words(body))


def test_a_judge_that_likes_the_first_is_undecided_in_both_orders(tmp_path: Path) -> None:
    """One that reads the answers is right, with as many votes as were asked for; and the cost is counted."""
    items = [item(0), item(1, right=1)]
    with serving(lambda body, number: "<answer>1</answer>") as server:
        found, cost = judged(items, server.url, tmp_path / "a", order="both")
    assert [each.decision for each in found] == [Decision.UNDECIDED] * 2
    assert cost["requests"] == cost["answers"] == 4
    assert (cost["prompt_tokens"], cost["tokens"], cost["unread"]) == (28, 12, 0)
    with serving(lambda body, number: f"<answer>{1 + answers(body).index('aaaa')}</answer>") as server:
        found, cost = judged(items, server.url, tmp_path / "b", order="both", votes=3, temperature=1.0)
    assert [each.outcome.votes for each in found] == [(0,) * 6] * 2
    assert [each.decision for each in found] == [Decision.RIGHT, Decision.WRONG]


def test_votes_are_draws_of_their_own(tmp_path: Path) -> None:
    """A server whose draws follow the seed of a request gives the same text to the same request; so that 15 votes are
    15 draws, no request comes twice, and a judge that takes the first at every third seed loses 5 of its 15 votes."""

    def drawn(body: dict[str, Any], number: int) -> str:
        right = 1 + answers(body).index("aaaa")
        return f"<answer>{right if body['seed'] % 3 else 3 - right}</answer>"

    with serving(drawn) as server:
        (found,), _ = judged([item(0)], server.url, tmp_path, order="random", votes=15, temperature=1.0)
    assert found.outcome.votes is not None
    assert (found.outcome.votes.count(0), found.outcome.votes.count(1)) == (10, 5)
    assert len({(words(body), body["seed"]) for body in server.asked}) == 15


def test_what_cannot_be_read_is_no_vote(tmp_path: Path) -> None:
    """It is counted, and decides nothing."""
    with serving(lambda body, number: "Both are fine.") as server:
        (found,), cost = judged([item(0)], server.url, tmp_path)
    assert found.outcome.votes == (None,)
    assert found.decision is Decision.UNDECIDED
    assert cost["unread"] == 1


def test_of_more_answers_the_round_robin_scores(tmp_path: Path) -> None:
    """By hand: the judge takes the longer of three, so that they score 2/3, 0 and -2/3."""
    three = Item(0, "three", "?", ("aaaaaa", "bbbb", "cc"), right=(0,), wrong=(1, 2), prompt_id="three")

    def longer(body: dict[str, Any], number: int) -> str:
        first, second = answers(body)
        return f"<answer>{1 if len(first) > len(second) else 2}</answer>"

    with serving(longer) as server:
        (found,), cost = judged([three], server.url, tmp_path, order="both")
    assert found.outcome.scores == pytest.approx((2 / 3, 0.0, -2 / 3))
    assert cost["requests"] == 6


def test_a_random_order_is_even_and_the_same_again(tmp_path: Path) -> None:
    """Of 100 pairs the right answer is first in about half: 50 +- 20 is four standard deviations."""
    items = [item(row) for row in range(100)]
    shown = []
    for name in ("a", "b"):
        with serving(lambda body, number: "<answer>1</answer>") as server:
            judged(items, server.url, tmp_path / name)
            shown.append(sorted(answers(body)[0] for body in server.asked))
    assert shown[0] == shown[1]
    assert 30 <= shown[0].count("aaaa") <= 70


def test_requests_that_fail_are_asked_again_later(tmp_path: Path) -> None:
    """Nothing is counted without them, and nothing that was answered is asked twice."""
    items = [item(row) for row in range(6)]
    calls: list[str] = []

    def reply(body: dict[str, Any], number: int) -> Any:
        calls.append(words(body))
        return 422 if len(calls) == 2 else "<answer>1</answer>"

    with serving(reply) as server:
        with pytest.raises(DataError, match=r"1 of 6 requests were not answered: status 422.*--allow-partial"):
            judged(items, server.url, tmp_path, concurrency=1)
        found, _ = judged(items, server.url, tmp_path, concurrency=1)
    assert len(found) == 6
    assert len(calls) == 7


def test_what_will_never_be_answered_can_be_left_out(tmp_path: Path) -> None:
    """Of 32 requests the server takes two and refuses the others, as a filter of contents does: the second call counts
    the two."""
    items = [item(row) for row in range(32)]
    with serving(lambda body, number: "<answer>1</answer>" if number in (0, 1) else 400) as server:
        with pytest.raises(DataError, match="30 of 32 requests were not answered"):
            judged(items, server.url, tmp_path, concurrency=1)
        judge = open_judge("judge", endpoint=server.url)
        journal = tmp_path / "partial.jsonl"
        outcomes, cost = judge_items(
            judge, items, images=ImageStore(), journal=journal, header={"b": "1"}, allow_partial=True
        )
    assert len(outcomes) == cost["answers"] == 2
    assert cost["failed"] == 30


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"[]\n", b'{"b": "1"}\n{"text": "?"}\n', b"answers\n"])
def test_a_damaged_file_of_answers_is_told(content: bytes, tmp_path: Path) -> None:
    """What to do, and nothing is asked."""
    (tmp_path / "partial.jsonl").write_bytes(content)
    with serving(lambda body, number: "<answer>1</answer>") as server:
        with pytest.raises(DataError, match=r"is damaged.*move it away"):
            judged([item(0)], server.url, tmp_path)
        assert not server.asked


def evaluated(*arguments: str) -> int:
    """The status of `basereward eval` on the small benchmark."""
    return main(["eval", *arguments, "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a benchmark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    small_benchmark(tmp_path / "data", rows=30)
    return tmp_path


def test_the_command_measures_a_served_judge(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the same measures as everything else: a judge that reads the picture's number out of the question is
    right in all 30 rows, in both orders; pictures were sent; the cost is in the evaluation's folder."""

    def right(body: dict[str, Any], number: int) -> str:
        asked = re.findall(r"picture (\d+)\?", words(body))[0]
        shown = re.findall(r"Answer \d: There are (\d+)", words(body))
        return f"<think>{asked}.</think><answer>{1 + shown.index(asked)}</answer>"

    with serving(right) as server:
        assert (
            evaluated("--judge", "served", "--endpoint", server.url, "--order", "both", "--name", "mine", "--json") == 0
        )
        assert all(part["type"] == "image_url" for part in [server.asked[0]["messages"][0]["content"][0]])
    result = json.loads(capsys.readouterr().out)
    labelled = json.loads((here / "data" / "rows.json").read_text())
    expected = sum(row["human_ranking"] == [0, 1] for row in labelled)
    measure = result["vl_rewardbench"]["official"]["overall"]
    assert (measure["numerator"], measure["denominator"]) == (expected, 30)
    facts = json.loads((here / "evaluations" / "mine" / "vl_rewardbench" / "evaluation.json").read_text())
    assert facts["cost"]["requests"] == 60
    assert facts["votes"] == 2
    assert facts["judge"]["prompt_sha256"] == load_prompt("pairwise_thinking", fields=PAIRWISE).sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "j"], "--endpoint"),
        (["--endpoint", "http://localhost:1/v1"], "--judge"),
        (["random", "--judge", "j", "--endpoint", "http://localhost:1/v1"], "one of the three"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--votes", "3"], "--temperature 0"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--votes", "16"], "1 to 15"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--pattern", "[12]"], "0 groups"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--prompt-file", "none.txt"], "cannot be read"),
    ],
)
def test_a_user_s_mistakes(here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What to do, and exit code 2."""
    assert evaluated(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_call_that_is_killed_goes_on(here: Path) -> None:
    """By SIGKILL, in the midst of two votes: what was answered is not asked again, and the evaluation is, byte for
    byte, that of a call that was not killed."""
    command = [sys.executable, "-m", "basereward", "eval", "--judge", "served", "--benchmark", "vl_rewardbench"]
    command += [
        *ANY_SIZE,
        "data=data/rows.json",
        "--votes",
        "2",
        "--temperature",
        "1",
        "--concurrency",
        "2",
        "--endpoint",
    ]

    def by_its_words(body: dict[str, Any], number: int) -> str:
        drawn = hashlib.sha256(f"{words(body)}{body['seed']}".encode()).digest()[0]
        return f"<think>{drawn}</think><answer>{1 + drawn % 2}</answer>" if drawn % 5 else "I cannot tell."

    def outcome(name: str) -> bytes:
        facts = json.loads((here / "evaluations" / name / "vl_rewardbench" / "evaluation.json").read_text())
        kept = {k: v for k, v in facts.items() if k not in ("name", "cost")}
        cost = {k: v for k, v in facts["cost"].items() if k not in ("seconds", "fresh")}
        return json.dumps([kept, cost], sort_keys=True).encode()

    with serving(by_its_words, delay_s=0.05) as server:
        killed = [*command, server.url, "--name", "killed"]
        process = subprocess.Popen(killed, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        journal = here / "evaluations" / "killed" / "vl_rewardbench" / "partial.jsonl"
        while not journal.is_file() or len(journal.read_bytes().splitlines()) < 36:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        before = journal.read_bytes().count(b"\n") - 1
        time.sleep(0.3)
        asked = len(server.asked)
        assert subprocess.run(killed, capture_output=True, check=False).returncode == 0
        assert len(server.asked) - asked == 60 - before
        assert not journal.exists()
        assert (
            subprocess.run([*command, server.url, "--name", "whole"], capture_output=True, check=False).returncode == 0
        )
    assert outcome("killed") == outcome("whole")
    files = [here / "evaluations" / name / "vl_rewardbench" for name in ("killed", "whole")]
    for file in sorted(files[1].glob("*.jsonl")):
        assert (files[0] / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_server_that_is_down_is_told(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Without waiting for every row."""
    monkeypatch.setattr("basereward.inference.judges.endpoint.LONGEST_WAIT_S", 0.0)
    with serving(lambda body, number: 503) as server:
        assert evaluated("--judge", "j", "--endpoint", server.url) == 2
    assert "requests all failed" in capsys.readouterr().err
