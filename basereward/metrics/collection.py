"""All metrics of one source in one collection."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from basereward.metrics.calibration_error import CalibrationError
from basereward.metrics.length_bias import LengthBias
from basereward.metrics.mean_margin import MeanMargin
from basereward.metrics.pair_accuracy import PairAccuracy
from basereward.metrics.pair_count import PairCount


class PreferenceMetrics(MetricCollection):
    """The metrics of the preferences of one source, over all processes.

    >>> import torch
    >>> metrics = PreferenceMetrics()
    >>> lengths = torch.tensor([4, 4]), torch.tensor([2, 8])
    >>> metrics.update(torch.tensor([1.5, -0.5]), winner_lengths=lengths[0], loser_lengths=lengths[1])
    >>> values = metrics.compute()
    >>> values["pair_accuracy"], values["pairs"], values["longer_wins"], values["follows_length"]
    (0.5, 2.0, 0.5, 1.0)
    """

    def __init__(self) -> None:
        metrics: dict[str, Metric | MetricCollection] = {
            "pair_accuracy": PairAccuracy(),
            "count": PairCount(),
            "mean_margin": MeanMargin(),
            "calibration_error": CalibrationError(),
            "length_bias": LengthBias(),
        }
        # Compute groups let metrics with equal states share them; no two of these have equal states.
        super().__init__(metrics, compute_groups=False)

    def update(  # type: ignore[override]
        self, margins: Tensor, *, winner_lengths: Tensor, loser_lengths: Tensor, ties: Tensor | None = None
    ) -> None:
        """Add P preferences: `margins (P,)`, the lengths (P,) of the responses in any one unit, `ties (P,)` of bool."""
        # `MetricCollection` passes to each metric the arguments that its own `update` names.
        super().update(margins, ties=ties, winner_lengths=winner_lengths, loser_lengths=loser_lengths)

    def compute(self) -> dict[str, float]:
        """`pair_accuracy, pairs, ties, mean_margin, calibration_error, longer_wins, follows_length, equal_lengths`.

        A share without pairs is NaN. All processes of a distributed run must call this, also those without rows.
        """
        with warnings.catch_warnings():
            # A source without rows in a split is no mistake; torchmetrics warns of every metric without an update.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
            return {name: float(value) for name, value in super().compute().items()}


def mean_accuracy(sources: Iterable[Mapping[str, float]]) -> float:
    """The mean pair accuracy over sources. Sources without pairs do not count; without any it is NaN.

    Args:
        sources: values of `PreferenceMetrics.compute`, for each source.

    >>> mean_accuracy([{"pair_accuracy": 0.5, "pairs": 2.0}, {"pair_accuracy": float("nan"), "pairs": 0.0}])
    0.5
    """
    # A mean over sources, not pairs: a large source would hide a small one.
    accuracies = [values["pair_accuracy"] for values in sources if values["pairs"]]
    return sum(accuracies) / len(accuracies) if accuracies else float("nan")
