"""How far two models agree on the same items, and whether one is better than the other."""

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


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts over the scored items; an item that is undecided counts as not right."""

    items: int
    prompts: int
    both_right: int
    only_first: int  # right by the first model alone
    only_second: int
    both_wrong: int
    alike: float  # share of the items on which both are right or both are wrong
    kappa: float | None  # Cohen's; None where chance alone would agree on every item
    difference: float  # share that is right, first less second
    low: float | None  # 95 % interval of the difference; None with a single prompt
    high: float | None
    p: float  # exact McNemar test, two-sided; not corrected for the number of comparisons


def agreement(first: Evaluation, second: Evaluation) -> Agreement:
    """Compares two evaluations item by item.

    The interval is a percentile bootstrap that draws prompts, not items, since the items of a prompt hang together.

    Raises:
        DataError: they are not of the same benchmark and version, did not score the same items, or the items changed
            between them.
    """
    pairs = _paired(first, second)
    right = np.array([[one.correct is True, two.correct is True] for one, two in pairs])
    one, two = right[:, 0], right[:, 1]
    only_first, only_second = int((one & ~two).sum()), int((~one & two).sum())
    discordant = only_first + only_second
    prompts = np.unique([item.prompt_id for item, _ in pairs], return_inverse=True)[1]
    low, high = _interval(one.astype(int) - two, prompts)
    return Agreement(
        items=len(pairs),
        prompts=int(prompts.max()) + 1,
        both_right=int((one & two).sum()),
        only_first=only_first,
        only_second=only_second,
        both_wrong=int((~one & ~two).sum()),
        alike=float((one == two).mean()),
        kappa=_kappa(one, two),
        difference=float(one.mean() - two.mean()),
        low=low,
        high=high,
        p=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
    )


def _paired(first: Evaluation, second: Evaluation) -> list[tuple[EvaluatedItem, EvaluatedItem]]:
    for what in ("benchmark", "version"):
        one, two = getattr(first, what), getattr(second, what)
        if one != two:
            raise DataError(f"'{first.name}' and '{second.name}' cannot be compared: {what} {one} against {two}")
    if different := changed(first.fingerprint, second.fingerprint):
        raise DataError(
            f"'{first.name}' and '{second.name}' cannot be compared: the {' and the '.join(different)} of the "
            "benchmark changed between them. Evaluate both on the same files."
        )
    ours, theirs = ({item.row: item for item in each.rows if item.scored} for each in (first, second))
    differ = [row for row in sorted({*ours, *theirs}) if _key(ours.get(row)) != _key(theirs.get(row))]
    if differ or not ours:
        listed = ", ".join(f"row {row}" for row in differ[:5]) + (f" and {len(differ) - 5} more" * (len(differ) > 5))
        raise DataError(
            f"'{first.name}' and '{second.name}' cannot be compared: they did not score the same items "
            f"({listed or 'none is scored'}). Score all items of the benchmark with both."
        )
    return [(ours[row], theirs[row]) for row in sorted(ours)]


def _key(item: EvaluatedItem | None) -> tuple[str, str] | None:
    return None if item is None else (item.id, item.prompt_id)


def _kappa(one: npt.NDArray[np.bool_], two: npt.NDArray[np.bool_]) -> float | None:
    if one.all() == two.all() and one.any() == two.any() and (one.all() or not one.any()):
        return None  # 0 / 0: every answer of both is the same
    return float(cohen_kappa_score(one, two))


def _interval(differences: npt.NDArray[np.int_], prompts: npt.NDArray[np.intp]) -> tuple[float | None, float | None]:
    """Of the mean of the differences of I items (I,), where `prompts` (I,) numbers the prompt of each."""
    sums, sizes = np.bincount(prompts, differences), np.bincount(prompts)
    if len(sums) < 2:
        return None, None
    if not differences.any():
        return 0.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all resamples alike: the interval is a point, and right
        found = bootstrap(
            (sums, sizes),
            lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
            paired=True,
            vectorized=True,
            method="percentile",
            n_resamples=RESAMPLES,
            batch=100,  # at most 100 resamples in memory
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    return float(found.low), float(found.high)
