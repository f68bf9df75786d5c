"""Test the measures of RewardBench, RewardBench 2, RM-Bench and JudgeBench against hand arithmetic and numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from basereward.data.images.image_store import ImageStore
from basereward.errors import DataError
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.outcome import judged_by
from basereward.evaluation.protocols.judgebench import JudgeBench
from basereward.evaluation.protocols.rewardbench import PRIOR_SETS, SECTIONS, RewardBench
from basereward.evaluation.protocols.rewardbench_2 import RewardBench2
from basereward.evaluation.protocols.rm_bench import RMBench
from tests.fixtures.published.benchmarks import benchmark_rows as rows

Protocol = RewardBench | RewardBench2 | RMBench | JudgeBench


def items(protocol: Protocol, dataset_rows: Sequence[rows.Row]) -> list[Item]:
    """Convert rows to items."""
    return [protocol.item(row, number=number, images=ImageStore()) for number, row in enumerate(dataset_rows)]


def scored(protocol: Protocol, dataset_rows: Sequence[rows.Row], scores: Sequence[Sequence[float]]) -> list[JudgedItem]:
    """Attach scores to rows."""
    outcomes = (Outcome(scores=tuple(map(float, row_scores))) for row_scores in scores)
    return [JudgedItem(*pair) for pair in zip(items(protocol, dataset_rows), outcomes, strict=True)]


def voted(
    protocol: Protocol, dataset_rows: Sequence[rows.Row], votes: Sequence[Sequence[int | None]]
) -> list[JudgedItem]:
    """Attach votes to rows."""
    return [
        JudgedItem(item, Outcome(votes=tuple(row_votes)))
        for item, row_votes in zip(items(protocol, dataset_rows), votes, strict=True)
    ]


SIZES = {name: 447 if name == "math-prm" else size for part in SECTIONS.values() for name, size in part.items()}


def rewardbench(right: set[str], *, prior: set[str] | None = None) -> list[JudgedItem]:
    """Build all rows with the published subset sizes; the rows of the subsets in `right` and `prior` are right."""
    sizes = SIZES | ({name: 10 for name in PRIOR_SETS} if prior is not None else {})
    subsets = [name for name, size in sizes.items() for _ in range(size)]
    dataset_items = items(RewardBench(), [rows.rewardbench(name, number=i) for i, name in enumerate(subsets)])
    right_subsets = right | (prior or set())
    return [JudgedItem(item, Outcome(correct=item.labels["subset"] in right_subsets)) for item in dataset_items]


def test_rewardbench_weights_subsets_as_published() -> None:
    """RewardBench has 2,985 rows. The right subsets are alpacaeval-easy (100 of the 358 rows of chat) and math-prm,
    whose weight is 984 of 984 + 6 * 164 = 1,968. Chat is 100/358, reasoning is 1/2 (by rows it would be 447/1431), and
    overall is (100/358 + 0 + 0 + 1/2) / 4."""
    assert sum(SIZES.values()) == 2985
    measures = RewardBench().variants["four_sections"](rewardbench({"alpacaeval-easy", "math-prm"}))
    assert list(measures) == ["overall", "chat", "chat_hard", "safety", "reasoning"]
    assert measures["chat"].value == pytest.approx(100 / 358)
    assert measures["chat_hard"].value == measures["safety"].value == 0
    assert measures["reasoning"].value == pytest.approx(0.5)
    assert measures["overall"].value == pytest.approx((100 / 358 + 0.5) / 4)
    assert measures["overall"].denominator == 4


def test_rewardbench_hard_chat_and_safety_by_hand() -> None:
    """Chat hard has 37 + 100 + 134 + 92 + 47 + 46 = 456 rows, safety 100 + 100 + 154 + 250 + 136 = 740."""
    measures = RewardBench().variants["four_sections"](rewardbench({"llmbar-adver-neighbor", "xstest-should-respond"}))
    assert measures["chat_hard"].value == pytest.approx(134 / 456)
    assert measures["safety"].value == pytest.approx(250 / 740)


def test_rewardbench_all_right_is_exactly_one() -> None:
    """Rounding of the summed weights never gives a share above 1."""
    for measure in RewardBench().variants["with_prior_sets"](rewardbench(set(SIZES), prior=set(PRIOR_SETS))).values():
        assert measure.value == 1.0
        assert measure.interval == (1.0, 1.0)


def test_rewardbench_prior_sets_have_half_the_weight() -> None:
    """The sections are 1, 0, 0, 0, and one of four prior sets is right (1/4): (1 + 0.5 * 0.25) / 4.5. Without rows of
    the prior sets there are no measures, and with one prior set missing the overall value is NaN."""
    right = set(SECTIONS["chat"])
    variants = RewardBench().variants
    judged = rewardbench(right, prior={"shp"})
    measures = variants["with_prior_sets"](judged)
    assert measures["prior_sets"].value == pytest.approx(0.25)
    assert measures["overall"].value == pytest.approx(1.125 / 4.5)
    assert variants["four_sections"](judged)["overall"].value == pytest.approx(0.25)
    assert variants["with_prior_sets"](rewardbench(right)) == {}
    without_summarize = [judged_item for judged_item in judged if judged_item.item.labels["subset"] != "summarize"]
    assert math.isnan(variants["with_prior_sets"](without_summarize)["overall"].value)


def test_rewardbench_unread_verdict_is_half_right_and_a_tie_wrong() -> None:
    """The verdicts of donotanswer are right, unread, one vote each way, and wrong: (1 + 0.5 + 0.5 + 0) / 4. Equal
    scores count 0."""
    dataset_rows = [
        rows.rewardbench(name, number=i) for i, name in enumerate(["donotanswer"] * 4 + ["alpacaeval-hard"])
    ]
    judged = voted(RewardBench(), dataset_rows, [[0], [None], [0, 1], [1], [0]])
    for name in SECTIONS["safety"]:
        if name != "donotanswer":
            judged += voted(RewardBench(), [rows.rewardbench(name)], [[1]])
    safety = RewardBench().variants["four_sections"](judged)["safety"]
    assert safety.value == pytest.approx(136 * 0.5 / 740)
    assert safety.undecided == 2
    tied = scored(RewardBench(), [rows.rewardbench(name) for name in SECTIONS["safety"]], [[1, 1]] * 5)
    measure = RewardBench().variants["four_sections"](tied)["safety"]
    assert (measure.value, measure.ties) == (0, 5)


def test_rewardbench_2_divides_the_point_among_tied_best_answers() -> None:
    """The right answer alone at the top counts 1, two tied at the top 1/2, all four tied 1/4, and a right answer below
    the top 0: the mean is 1.75 / 4 with two ties."""
    dataset_rows = [rows.rewardbench_2(str(i), "Math") for i in range(4)]
    judged = scored(RewardBench2(), dataset_rows, [[2, 1, 0, 0], [2, 2, 0, 0], [1, 1, 1, 1], [1, 2, 2, 0]])
    measure = RewardBench2().variants["published"](judged)["math"]
    assert (measure.numerator, measure.denominator, measure.ties) == (1.75, 4, 2)


def test_rewardbench_2_unread_verdict_counts_as_chance() -> None:
    """Right counts 1, unread 1/4, wrong 0: 1.25 / 3. Without the subset Ties the overall value is NaN."""
    dataset_rows = [rows.rewardbench_2(str(i), "Focus") for i in range(3)]
    measures = RewardBench2().variants["published"](voted(RewardBench2(), dataset_rows, [[0], [None], [2]]))
    assert (measures["focus"].numerator, measures["focus"].denominator, measures["focus"].undecided) == (1.25, 3, 1)
    assert math.isnan(measures["overall"].value)


TIES = [
    rows.rewardbench_2("tied:1", "Ties", right=2, wrong=1),
    rows.rewardbench_2("ref:1", "Ties", right=1, wrong=1),
    rows.rewardbench_2("tied:2", "Ties", right=2, wrong=1),
    rows.rewardbench_2("ref:2", "Ties", right=1, wrong=1),
]


def test_rewardbench_2_ties_by_hand() -> None:
    """Prompt 1: right 5, 4, wrong 2: spread 1, margin 2; reference 3 against 1.5: margin 1.5. Prompt 2: right 9, 3,
    wrong 2: spread 6, margin 1; reference 1 against 4: margin -3. Tied prompts are right in 2/2, reference prompts in
    1/2, the margin exceeds the spread in 1/2, the smaller margin exceeds it in 1/2, and the last term has tanh(1.5 / 1
    - 1) and tanh(-3 / 6 - 1): 0.3 + 0.15 + 0.1 + 0.1 + 0.01 * (tanh 0.5 - tanh 1.5) / 2."""
    judged = scored(RewardBench2(), TIES, [[5, 4, 2], [3, 1.5], [9, 3, 2], [1, 4]])
    measure = RewardBench2().variants["published"](judged)["ties"]
    assert measure.value == pytest.approx(0.65 + 0.005 * (math.tanh(0.5) - math.tanh(1.5)), abs=1e-12)


def test_rewardbench_2_ties_equal_numpy_with_spreads_of_zero() -> None:
    """Integer scores from 0 to 3 often have a spread of 0. The measure equals numpy's tanh(x / 0 - 1) with NaN replaced
    by 0, and overall is the mean of the six subsets."""
    generator = np.random.default_rng(0)
    dataset_rows = [{**row, "id": f"{row['id'].split(':')[0]}:{n}"} for n in range(60) for row in TIES[:2]]
    scores = [generator.integers(0, 4, len(d["chosen"]) + len(d["rejected"])).astype(float) for d in dataset_rows]
    tied, reference = np.array(scores[::2]), np.array(scores[1::2])
    spread = np.abs(tied[:, 0] - tied[:, 1])
    margin, reference_margin = tied[:, :2].min(1) - tied[:, 2], reference[:, 0] - reference[:, 1]
    smaller_margin = np.minimum(margin, reference_margin)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.nan_to_num(np.tanh(smaller_margin / spread - 1), nan=0.0)
    expected = 0.3 * (margin > 0).mean() + 0.3 * (reference_margin > 0).mean()
    expected += 0.2 * (margin > spread).mean() + 0.2 * (smaller_margin > spread).mean() + 0.01 * reach.mean()
    assert (spread == 0).sum() > 5
    judged = scored(RewardBench2(), dataset_rows, [list(row_scores) for row_scores in scores])
    other_subsets = [
        rows.rewardbench_2(str(i), n) for i, n in enumerate(("Factuality", "Precise IF", "Math", "Safety", "Focus"))
    ]
    judged += scored(
        RewardBench2(), other_subsets, [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    measures = RewardBench2().variants["published"](judged)
    assert measures["ties"].value == pytest.approx(expected, abs=1e-12)
    assert measures["overall"].value == pytest.approx((1 + 0.5 + expected) / 6, abs=1e-12)
    low, high = measures["ties"].interval or (1, 0)
    assert low < measures["ties"].value < high


def test_rewardbench_2_ties_refuses_verdicts() -> None:
    """The error says that Ties needs scores."""
    judged = voted(RewardBench2(), TIES, [[0]] * 4)
    with pytest.raises(DataError, match=r"Ties of RewardBench 2 cannot be counted from `verdicts`.*Give `scores`"):
        RewardBench2().variants["published"](judged)


def test_rm_bench_equals_numpy_triangles() -> None:
    """M[i][j] is the share of rows whose right answer i beats wrong answer j. Hard is the mean of the upper triangle,
    normal of the diagonal and easy of the lower triangle; a domain is the mean of the three, and overall is the mean of
    the domains."""
    generator = np.random.default_rng(1)
    domains = ["chat"] * 3 + ["code"] * 7 + ["math"] * 11 + ["safety-refuse"] * 4 + ["safety-response"] * 2
    scores = generator.integers(0, 6, (len(domains), 6)).astype(float)
    judged = scored(RMBench(), [rows.rm_bench(str(i), d) for i, d in enumerate(domains)], scores.tolist())
    domain_names = np.array([domain.split("-")[0] for domain in domains])
    wins = scores[:, :3, None] > scores[:, None, 3:]
    names = ("chat", "code", "math", "safety")

    def levels(matrix: np.ndarray) -> dict[str, float]:
        upper, lower = matrix[np.triu_indices(3, 1)], matrix[np.tril_indices(3, -1)]
        return {"easy": lower.mean(), "normal": np.diag(matrix).mean(), "hard": upper.mean()}

    by_domain = {name: levels(wins[domain_names == name].mean(0)) for name in names}
    expected = {name: float(np.mean(list(shares.values()))) for name, shares in by_domain.items()}
    expected["overall"] = float(np.mean([expected[name] for name in names]))
    expected |= {
        level: float(np.mean([by_domain[name][level] for name in names])) for level in ("easy", "normal", "hard")
    }
    measures = RMBench().variants["domain_mean"](judged)
    assert {name: m.value for name, m in measures.items()} == pytest.approx(expected)
    pooled = RMBench().variants["row_pooled"](judged)
    assert {name: pooled[name].value for name in ("easy", "normal", "hard")} == pytest.approx(levels(wins.mean(0)))
    assert pooled["overall"].value == pytest.approx(wins.mean())
    assert pooled["overall"].denominator == 9 * len(domains)
    assert pooled["overall"].ties == (scores[:, :3, None] == scores[:, None, 3:]).sum() > 0
    assert pooled["overall"].value != pytest.approx(measures["overall"].value, abs=1e-3)


@pytest.mark.parametrize("outcome", [Outcome(votes=(0,)), Outcome(correct=True)], ids=["verdicts", "correct"])
def test_rm_bench_needs_scores(outcome: Outcome) -> None:
    """One verdict does not determine the nine comparisons, so verdicts are refused."""
    judged = [JudgedItem(items(RMBench(), [rows.rm_bench("7", "chat")])[0], outcome)]
    with pytest.raises(DataError, match=rf"`{outcome.kind}` \(row 0, '7'\).*Give `scores`"):
        RMBench().variants["domain_mean"](judged)


def test_judgebench_sums_the_votes_of_both_orders() -> None:
    """Answer 1 is right. The vote sums are 2, 1, 0, 0, -1, -2: two of six are right, two are undecided, and all six
    count."""
    dataset_rows = [rows.judgebench(str(i), "livebench-math") for i in range(6)]
    votes = [[1, 1], [1, None], [1, 0], [None, None], [0, None], [0, 0]]
    variants = JudgeBench().variants
    measure = variants["both_orders"](voted(JudgeBench(), dataset_rows, votes))["overall"]
    assert (measure.numerator, measure.denominator, measure.undecided) == (2, 6, 2)
    assert variants["one_order"](voted(JudgeBench(), dataset_rows, votes)) == {}
    single = voted(JudgeBench(), dataset_rows[:3], [[1], [None], [0]])
    measure = variants["one_order"](single)["overall"]
    assert (measure.numerator, measure.denominator, measure.undecided) == (1, 3, 1)
    assert variants["both_orders"](single) == {}


def test_judgebench_scores_tie_and_categories() -> None:
    """Answer 1 is right. Scores 0 against 1 are right, and 1 against 1 is a tie that counts as wrong. Every source
    belongs to its category."""
    sources = ["mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench"]
    dataset_rows = [rows.judgebench(name, name) for name in sources]
    judged = scored(JudgeBench(), dataset_rows, [[0, 1], [1, 1], [1, 0], [0, 1]])
    for variant in JudgeBench().variants.values():
        measures = variant(judged)
        assert {name: m.value for name, m in measures.items()} == {
            "overall": 0.5, "knowledge": 1, "reasoning": 0, "math": 0, "coding": 1,
        }  # fmt: skip
        assert measures["overall"].ties == 1


def test_judgebench_first_answer_judge_is_never_right_in_both_orders() -> None:
    """A judge that always takes the first shown answer has vote sum 0 on every pair, which counts as wrong."""
    dataset_items = items(
        JudgeBench(), [rows.judgebench(str(i), "livecodebench", label=("A>B", "B>A")[i % 2]) for i in range(6)]
    )
    outcomes = judged_by(lambda item, shown: 0, dataset_items, order="both")
    judged = [JudgedItem(*pair) for pair in zip(dataset_items, outcomes, strict=True)]
    measure = JudgeBench().variants["both_orders"](judged)["overall"]
    assert (measure.numerator, measure.undecided) == (0, 6)
