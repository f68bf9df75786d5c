"""Agreement between two models on the same items, and whether one of them is better."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import cohen_kappa_score

from basereward.errors import DataError
from basereward.evaluation.evaluation_folder import EvaluatedItem, Evaluation
from basereward.evaluation.item_identity import changed

RESAMPLES, SEED = 4999, 0
# Bounds the memory: a batch holds this many resamples of all prompts.
RESAMPLES_IN_MEMORY = 100
# Rows that a message lists.
MAX_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts over the scored items. An undecided item counts as not right."""

    items: int
    prompts: int
    both_right: int
    only_first: int
    """right by the first model only"""
    only_second: int
    both_wrong: int
    alike: float
    """share of the items on which both are right or both are wrong"""
    kappa: float | None
    """Cohen's kappa; None if chance alone would agree on every item"""
    difference: float
    """share of right items of the first model minus that of the second"""
    low: float | None
    """95 % interval of the difference; None if there is a single prompt"""
    high: float | None
    p: float
    """of the exact two-sided McNemar test, not corrected for the number of comparisons"""


def agreement(first: Evaluation, second: Evaluation) -> Agreement:
    """Compare two evaluations item by item.

    The interval is a percentile bootstrap over prompts, because the items of one prompt are not independent. The test
    is McNemar's, which uses the items on which exactly one model is right (Psychometrika 12, 1947).

    Raises:
        DataError: the evaluations differ in benchmark, version, items, or the set of scored items.
    """
    pairs = _paired(first, second)
    first_right = np.array([one.correct is True for one, _ in pairs])
    second_right = np.array([other.correct is True for _, other in pairs])
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    discordant = only_first + only_second
    prompts = np.unique([item.prompt_id for item, _ in pairs], return_inverse=True)[1]
    low, high = _interval(first_right.astype(int) - second_right, prompts)
    return Agreement(
        items=len(pairs),
        prompts=int(prompts.max()) + 1,
        both_right=int((first_right & second_right).sum()),
        only_first=only_first,
        only_second=only_second,
        both_wrong=int((~first_right & ~second_right).sum()),
        alike=float((first_right == second_right).mean()),
        kappa=_kappa(first_right, second_right),
        difference=float(first_right.mean() - second_right.mean()),
        low=low,
        high=high,
        p=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )


def _paired(first: Evaluation, second: Evaluation) -> list[tuple[EvaluatedItem, EvaluatedItem]]:
    """The scored items of both, by row.

    Raises:
        DataError: the evaluations are not of the same items.
    """
    refusal = f"'{first.name}' and '{second.name}' cannot be compared"
    _check_same_benchmark(first, second, refusal=refusal)
    first_items, second_items = _scored_items(first), _scored_items(second)
    rows = sorted({*first_items, *second_items})
    different_rows = [row for row in rows if _key(first_items.get(row)) != _key(second_items.get(row))]
    if different_rows or not first_items:
        listed = ", ".join(f"row {row}" for row in different_rows[:MAX_ROWS]) or "none is scored"
        if len(different_rows) > MAX_ROWS:
            listed += f" and {len(different_rows) - MAX_ROWS} more"
        raise DataError(
            f"{refusal}: they did not score the same items ({listed}). Score all items of the benchmark with both."
        )
    return [(first_items[row], second_items[row]) for row in rows]


def _check_same_benchmark(first: Evaluation, second: Evaluation, *, refusal: str) -> None:
    for key in ("benchmark", "version"):
        one, other = getattr(first, key), getattr(second, key)
        if one != other:
            raise DataError(f"{refusal}: {key} {one} against {other}")
    # The files of one version may still have been edited between the two evaluations.
    if different := changed(first.fingerprint, second.fingerprint):
        raise DataError(
            f"{refusal}: the {' and the '.join(different)} of the benchmark changed between them. Evaluate both on the "
            "same files."
        )


def _scored_items(evaluation: Evaluation) -> dict[int, EvaluatedItem]:
    return {item.row: item for item in evaluation.rows if item.scored}


def _key(item: EvaluatedItem | None) -> tuple[str, str] | None:
    return None if item is None else (item.id, item.prompt_id)


def _kappa(first_right: npt.NDArray[np.bool_], second_right: npt.NDArray[np.bool_]) -> float | None:
    # If both models are right on all items, or both wrong on all, kappa is 0 / 0.
    constant = first_right.all() or not first_right.any()
    same = first_right.all() == second_right.all() and first_right.any() == second_right.any()
    if constant and same:
        return None
    return float(cohen_kappa_score(first_right, second_right))


def _interval(differences: npt.NDArray[np.int_], prompts: npt.NDArray[np.intp]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean difference.

    Args:
        differences: (I,), 1, 0 or -1 for each item.
        prompts: (I,), the number of each item's prompt.
    """
    sums, sizes = np.bincount(prompts, differences), np.bincount(prompts)
    if len(sums) < 2:
        return None, None
    # scipy returns NaN here.
    if not differences.any():
        return 0.0, 0.0
    with warnings.catch_warnings():
        # scipy warns if all resamples are equal. The interval is then one point, which is correct.
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = bootstrap(
            (sums, sizes),
            lambda sums, sizes, axis: sums.sum(axis=axis) / sizes.sum(axis=axis),
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=RESAMPLES,
            batch=RESAMPLES_IN_MEMORY,
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    return float(interval.low), float(interval.high)
