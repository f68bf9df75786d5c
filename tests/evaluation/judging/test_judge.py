"""Test `judge_items` and `basereward eval --judge` with served judges: votes, round-robins, cost and failures."""

from __future__ import annotations

import hashlib
import json
import re
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
from basereward.inference.judges.messages import data_uri
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from tests.helpers.benchmark_rows import ANY_SIZE, item, small_benchmark
from tests.helpers.chat_servers import serving, words
from tests.helpers.forked_command import ForkedCommand, run_command
from tests.helpers.http_requests import png

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def judged(items: list[Item], url: str, folder: Path, **options: Any) -> tuple[list[JudgedItem], dict[str, float]]:
    """Judge the items with the judge served at `url`; return the judged items and the cost."""
    judge = open_judge("judge", endpoint=url, **options)
    outcomes, cost = judge_items(judge, items, images=ImageStore(), journal=folder / "partial.jsonl", header={"b": "1"})
    return [JudgedItem(item, outcomes[item.row]) for item in items], cost


def answers(body: dict[str, Any]) -> list[str]:
    """Return the first word of each answer in the order of the prompt."""
    return re.findall(r"Answer \d: (\S+)", words(body))


def test_judge_sees_the_pictures_of_the_answers_in_their_places(tmp_path: Path) -> None:
    """In both orders the pictures of the prompt come first, and each answer has its own after its name."""
    drawn = Item(
        *(0, "a", "Like <image>?", ("", "So: <image>"), (0,), (1,), "a"),
        images=(png("red"),),
        response_images=((png("blue"),), (png("green"),)),
    )
    bodies: list[dict[str, Any]] = []

    def reply(body: dict[str, Any], number: int) -> str:
        bodies.append(body)
        return "<answer>1</answer>"

    with serving(reply) as server:
        judged([drawn], server.url, tmp_path, order="both")
    uris = {data_uri(png(name)): name for name in ("red", "blue", "green")}
    seen = []
    for body in bodies:
        (message,) = body["messages"]
        words_and_names = ""
        for part in message["content"]:
            words_and_names += part["text"] if part["type"] == "text" else f"[{uris[part['image_url']['url']]}]"
        seen.append(re.findall(r"Like .*\?|Answer \d: .*", words_and_names))
    question = "Like [red]?"
    assert sorted(seen) == sorted(
        [
            [question, "Answer 1: [blue]", "Answer 2: So: [green]"],
            [question, "Answer 1: So: [green]", "Answer 2: [blue]"],
        ]
    )


def test_judge_that_prefers_the_first_answer_is_undecided_in_both_orders(tmp_path: Path) -> None:
    """A judge that always votes for the first answer is undecided, and the cost counts its requests and tokens. A judge
    that reads the answers is right and gives the requested number of votes."""
    items = [item(0), item(1, right=1)]
    with serving(lambda body, number: "<answer>1</answer>") as server:
        results, cost = judged(items, server.url, tmp_path / "a", order="both")
    assert [result.decision for result in results] == [Decision.UNDECIDED] * 2
    assert cost["requests"] == cost["answers"] == 4
    assert (cost["prompt_tokens"], cost["tokens"], cost["unread"]) == (28, 12, 0)
    with serving(lambda body, number: f"<answer>{1 + answers(body).index('aaaa')}</answer>") as server:
        results, cost = judged(items, server.url, tmp_path / "b", order="both", votes=3, temperature=1.0)
    assert [result.outcome.votes for result in results] == [(0,) * 6] * 2
    assert [result.decision for result in results] == [Decision.RIGHT, Decision.WRONG]


def test_votes_are_independent_draws(tmp_path: Path) -> None:
    """The server derives its answer from the seed of the request. All 15 requests have different seeds, and a judge
    that takes the wrong answer at every third new seed loses 5 of its 15 votes."""
    seeds: list[int] = []

    def vote_by_seed(body: dict[str, Any], number: int) -> str:
        right = 1 + answers(body).index("aaaa")
        if body["seed"] not in seeds:
            seeds.append(body["seed"])
        return f"<answer>{right if seeds.index(body['seed']) % 3 else 3 - right}</answer>"

    with serving(vote_by_seed) as server:
        (result,), _ = judged([item(0)], server.url, tmp_path, order="random", votes=15, temperature=1.0)
    assert result.outcome.votes is not None
    assert (result.outcome.votes.count(0), result.outcome.votes.count(1)) == (10, 5)
    assert len({body["seed"] for body in server.asked}) == 15


def test_unreadable_answer_is_no_vote(tmp_path: Path) -> None:
    """An answer without a verdict is counted as unread, and the item stays undecided."""
    with serving(lambda body, number: "Both are fine.") as server:
        (result,), cost = judged([item(0)], server.url, tmp_path)
    assert result.outcome.votes == (None,)
    assert result.decision is Decision.UNDECIDED
    assert cost["unread"] == 1


def test_round_robin_scores_three_answers(tmp_path: Path) -> None:
    """The judge prefers the longer of three answers; hand arithmetic gives the scores 2/3, 0 and -2/3."""
    three_answers = Item(0, "three", "?", ("aaaaaa", "bbbb", "cc"), right=(0,), wrong=(1, 2), prompt_id="three")

    def prefer_longer(body: dict[str, Any], number: int) -> str:
        first, second = answers(body)
        return f"<answer>{1 if len(first) > len(second) else 2}</answer>"

    with serving(prefer_longer) as server:
        (result,), cost = judged([three_answers], server.url, tmp_path, order="both")
    assert result.outcome.scores == pytest.approx((2 / 3, 0.0, -2 / 3))
    assert cost["requests"] == 6


def test_random_order_is_balanced_and_reproducible(tmp_path: Path) -> None:
    """Two runs show the same order. The right answer is first in about half of 100 pairs; 50 +- 20 is four standard
    deviations."""
    items = [item(row) for row in range(100)]
    first_answers = []
    for name in ("a", "b"):
        with serving(lambda body, number: "<answer>1</answer>") as server:
            judged(items, server.url, tmp_path / name)
            first_answers.append(sorted(answers(body)[0] for body in server.asked))
    assert first_answers[0] == first_answers[1]
    assert 30 <= first_answers[0].count("aaaa") <= 70


def test_next_call_repeats_only_the_failed_requests(tmp_path: Path) -> None:
    """A call with a failed request raises, and the next call sends that request alone: 7 requests for 6 items."""
    items = [item(row) for row in range(6)]
    requests: list[str] = []

    def reply(body: dict[str, Any], number: int) -> Any:
        requests.append(words(body))
        return 422 if len(requests) == 2 else "<answer>1</answer>"

    with serving(reply) as server:
        with pytest.raises(DataError, match=r"1 of 6 requests were not answered: status 422.*--allow-partial"):
            judged(items, server.url, tmp_path, concurrency=1)
        results, _ = judged(items, server.url, tmp_path, concurrency=1)
    assert len(results) == 6
    assert len(requests) == 7


def test_allow_partial_leaves_out_refused_requests(tmp_path: Path) -> None:
    """The server answers 2 of 32 requests and refuses the others with status 400, like a content filter. With
    `allow_partial` the second call returns the 2 outcomes and counts 30 failures."""
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
def test_damaged_journal_is_refused(content: bytes, tmp_path: Path) -> None:
    """The error says what to do, and no request is sent."""
    (tmp_path / "partial.jsonl").write_bytes(content)
    with serving(lambda body, number: "<answer>1</answer>") as server:
        with pytest.raises(DataError, match=r"is damaged.*move it away"):
            judged([item(0)], server.url, tmp_path)
        assert not server.asked


def evaluated(*arguments: str) -> int:
    """Return the exit status of `basereward eval` on the small benchmark."""
    return main(["eval", *arguments, "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a small benchmark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    small_benchmark(tmp_path / "data", rows=30)
    return tmp_path


def test_eval_command_measures_a_served_judge(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A judge that reads the number of the picture from the question decides all 30 rows in both orders. The measures
    equal the labels, the requests contain pictures, and the evaluation folder has the cost."""

    def reply(body: dict[str, Any], number: int) -> str:
        number_in_question = re.findall(r"picture (\d+)\?", words(body))[0]
        numbers = re.findall(r"Answer \d: There are (\d+)", words(body))
        return f"<think>{number_in_question}.</think><answer>{1 + numbers.index(number_in_question)}</answer>"

    with serving(reply) as server:
        assert (
            evaluated("--judge", "served", "--endpoint", server.url, "--order", "both", "--name", "mine", "--json") == 0
        )
        assert all(part["type"] == "image_url" for part in [server.asked[0]["messages"][0]["content"][0]])
    result = json.loads(capsys.readouterr().out)
    rows = json.loads((here / "data" / "rows.json").read_text())
    expected = sum(row["human_ranking"] == [0, 1] for row in rows)
    measure = result["vl_rewardbench"]["official"]["overall"]
    assert (measure["numerator"], measure["denominator"]) == (expected, 30)
    evaluation = json.loads((here / "evaluations" / "mine" / "vl_rewardbench" / "evaluation.json").read_text())
    assert evaluation["cost"]["requests"] == 60
    assert evaluation["votes"] == 2
    assert evaluation["judge"]["prompt_sha256"] == load_prompt("pairwise_thinking", fields=PAIRWISE).sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "j"], "--endpoint"),
        (["--endpoint", "http://localhost:1/v1"], "--judge"),
        (["random", "--judge", "j", "--endpoint", "http://localhost:1/v1"], "--scores"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--votes", "3"], "--temperature 0"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--votes", "16"], "1 to 15"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--pattern", "[12]"], "0 groups"),
        (["--judge", "j", "--endpoint", "http://localhost:1/v1", "--prompt-file", "none.txt"], "cannot be read"),
    ],
)
def test_invalid_options_are_refused(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and the message names the option to change."""
    assert evaluated(*arguments) == 2
    assert message in capsys.readouterr().err


def test_killed_call_resumes(here: Path) -> None:
    """A call is killed by SIGKILL between two votes. The next call does not repeat an answered request, and its
    evaluation is, byte for byte, that of an uninterrupted call."""
    command = ["eval", "--judge", "served", "--benchmark", "vl_rewardbench", *ANY_SIZE, "data=data/rows.json"]
    command += ["--votes", "2", "--temperature", "1", "--concurrency", "2", "--endpoint"]

    def reply_by_content(body: dict[str, Any], number: int) -> str:
        draw = hashlib.sha256(f"{words(body)}{body['seed']}".encode()).digest()[0]
        return f"<think>{draw}</think><answer>{1 + draw % 2}</answer>" if draw % 5 else "I cannot tell."

    def evaluation_bytes(name: str) -> bytes:
        evaluation = json.loads((here / "evaluations" / name / "vl_rewardbench" / "evaluation.json").read_text())
        fields = {k: v for k, v in evaluation.items() if k not in ("name", "cost")}
        cost = {k: v for k, v in evaluation["cost"].items() if k not in ("seconds", "fresh")}
        return json.dumps([fields, cost], sort_keys=True).encode()

    with serving(reply_by_content, delay_s=0.05) as server:
        killed = [*command, server.url, "--name", "killed"]
        process = ForkedCommand(*killed)
        journal = here / "evaluations" / "killed" / "vl_rewardbench" / "partial.jsonl"
        while not journal.is_file() or len(journal.read_bytes().splitlines()) < 36:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.kill()
        process.communicate()
        answered = journal.read_bytes().count(b"\n") - 1
        time.sleep(0.3)
        requests_before = len(server.asked)
        assert run_command(*killed).returncode == 0
        assert len(server.asked) - requests_before == 60 - answered
        assert not journal.exists()
        assert run_command(*command, server.url, "--name", "whole").returncode == 0
    assert evaluation_bytes("killed") == evaluation_bytes("whole")
    files = [here / "evaluations" / name / "vl_rewardbench" for name in ("killed", "whole")]
    for file in sorted(files[1].glob("*.jsonl")):
        assert (files[0] / file.name).read_bytes() == file.read_bytes(), file.name


def test_unavailable_server_stops_the_evaluation(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """The command stops with exit code 2 before it has tried every row."""
    monkeypatch.setattr("basereward.inference.judges.endpoint.LONGEST_WAIT_S", 0.0)
    with serving(lambda body, number: 503) as server:
        assert evaluated("--judge", "j", "--endpoint", server.url) == 2
    assert "requests all failed" in capsys.readouterr().err
