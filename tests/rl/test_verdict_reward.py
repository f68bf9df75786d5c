"""Test the reward function of a judge, and its consistency judge behind a real server that also fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from basereward.errors import DataError, ModelError, SilentError
from basereward.inference.judges.endpoint import Endpoint
from basereward.rl.consistency import ConsistencyJudge, Verdict, last_lines, read_consistency
from basereward.rl.rewards.verdict import JudgeReward
from tests.helpers.chat_servers import ChatServer, serving

FIRST = "<think>2 counts four.\nThere are three.</think><answer>1</answer>"
SECOND = "<think>1 is wrong.</think><answer>2</answer>"


def judge(server: ChatServer, **options: Any) -> ConsistencyJudge:
    """A judge that repeats failed requests at once."""
    return ConsistencyJudge(Endpoint(server.url, "judge", attempts=2, first_wait_s=0.0, timeout_s=60.0), **options)


def rewards(reward: JudgeReward, texts: list[str], labels: list[Any]) -> tuple[list[float], dict[str, Any]]:
    """The rewards of texts, and what the function logs."""
    logged: dict[str, Any] = {}
    values = asyncio.run(
        reward([[]] * len(texts), texts, label=labels, log_extra=logged.__setitem__, log_metric=logged.__setitem__)
    )
    return values, logged


def test_sampled_consistency_depends_on_its_verdict_alone() -> None:
    """A judge that draws its answers from the seeds of requests says the same of a verdict alone, in a batch, and in
    another order."""
    verdicts = [Verdict(f"<think>1 counts {number}.</think><answer>1</answer>", 1) for number in range(12)]
    with serving(lambda body, number: str(body["seed"] % 2)) as server:
        alone = [judge(server).judge([verdict])[0] for verdict in verdicts]
        assert judge(server).judge(verdicts) == alone
        assert judge(server).judge(verdicts[::-1]) == alone[::-1]
    assert set(alone) == {1, -1}


def test_consistency_changes_the_reward_of_right_verdicts_alone() -> None:
    """2.0 where the judge says 1, 1.0 where it says 0, 1.5 where it cannot be read; no wrong verdict is asked about."""
    replies = {"three": "1", "is wrong": "It is 0.", "unsure": "perhaps"}

    def reply(body: dict[str, Any], number: int) -> str:
        asked = body["messages"][0]["content"]
        return next(answer for part, answer in replies.items() if part in asked)

    texts = [FIRST, SECOND, "<think>unsure</think><answer>1</answer>", FIRST]
    with serving(reply) as server:
        consistency = judge(server)
        values, logged = rewards(JudgeReward(consistency), texts, [1, 2, 1, 2])
    assert values == [2.0, 1.0, 1.5, 0.5]
    assert logged["right"] == [True, True, True, False]
    assert logged["judge/consistency"] == 0.0
    expected = {"asked": 3, "requests": 5, "consistent": 1, "inconsistent": 1, "unread": 1, "failed": 0}
    assert {name: consistency.counts[name] for name in expected} == expected
    assert len(server.asked) == 5
    assert {body["temperature"] for body in server.asked} == {0.1}


def test_judge_sees_the_end_of_the_reasoning_and_the_verdict() -> None:
    """Lines before the last three, tags, and the answers themselves are not in the request."""
    text = "<think>alpha\ntwo\n\nthree\nfour</think><answer>2</answer>"
    assert last_lines(text, 3) == "two\nthree\nfour"
    with serving(lambda body, number: "1") as server:
        assert judge(server).judge([Verdict(text, 2)]) == [1]
    asked = server.asked[0]["messages"][0]["content"]
    assert "two\nthree\nfour" in asked
    assert "Answer 2 is better." in asked
    assert "alpha" not in asked


def test_equal_verdicts_are_asked_about_once_and_requests_run_at_once() -> None:
    """Many rollouts of a trained judge are the same text."""
    verdicts = [Verdict(f"<think>{n % 6}</think><answer>1</answer>", 1) for n in range(24)]
    with serving(lambda body, number: "0", delay_s=0.2) as server:
        assert judge(server).judge(verdicts) == [-1] * 24
        assert judge(server, inconsistent=0).judge(verdicts[:1]) == [0]
    assert len(server.asked) == 7
    assert server.most_at_once > 1


def test_judge_that_dies_costs_no_reward_at_first_and_then_stops_the_training() -> None:
    """Two calls without any answer leave C at 0 and are counted; the third raises. One answer begins anew."""
    alive = {"now": False}
    verdicts = [Verdict(f"<think>{n}</think><answer>1</answer>", 1) for n in range(25)]
    with serving(lambda body, number: "1" if alive["now"] else 500) as server:
        consistency = judge(server)
        assert consistency.judge(verdicts) == [0] * 25
        assert consistency.counts["failed"] == 25
        alive["now"] = True
        assert consistency.judge(verdicts) == [1] * 25
        alive["now"] = False
        for _ in range(2):
            assert consistency.judge(verdicts) == [0] * 25
        with pytest.raises(SilentError):
            consistency.judge(verdicts)


def test_failed_request_counts_as_neither_consistent_nor_right() -> None:
    """A verifier that fails gives 0, and the others keep their answers."""
    with serving(lambda body, number: 400 if "is wrong" in body["messages"][0]["content"] else "1") as server:
        consistency = judge(server)
        values, _ = rewards(JudgeReward(consistency), [SECOND, FIRST], [2, 1])
    assert values == [1.5, 2.0]
    assert consistency.counts["failed"] == 1


def test_wrong_key_of_the_judge_stops_at_once() -> None:
    """No later request could succeed."""
    with serving(lambda body, number: 401) as server, pytest.raises(ModelError, match="key"):
        rewards(JudgeReward(judge(server)), [FIRST], [1])


def test_metrics_show_a_judge_that_prefers_a_place() -> None:
    """A judge that always says 1 is right for every label 1 and for no label 2."""
    _, logged = rewards(JudgeReward(), [FIRST] * 4 + ["?"], [1, 2, 1, 2, 2])
    assert logged["judge/accuracy"] == pytest.approx(0.4)
    assert (logged["judge/accuracy_label_1"], logged["judge/accuracy_label_2"]) == (1.0, 0.0)
    assert (logged["judge/first_preferred"], logged["judge/no_verdict"]) == (1.0, pytest.approx(0.2))


@pytest.mark.parametrize("labels", [[1, 3], [1, None], None])
def test_labels_are_checked_before_anything_is_judged(labels: Any) -> None:
    """A data set without the column has no labels either."""
    with pytest.raises(DataError, match="label"):
        asyncio.run(JudgeReward()([[]] * 2, [FIRST, FIRST], label=labels))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1", True),
        (" 0\n", False),
        ("<think>0 or 1</think>1", True),
        ("1.", True),
        ("0.1", None),
        ("", None),
        ("01", None),
    ],
)
def test_consistency_is_read_from_one_number_alone(text: str, answer: bool | None) -> None:
    """A text with both numbers, or with another one, has no answer."""
    assert read_consistency(text) is answer
