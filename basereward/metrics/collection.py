"""All metrics of one source in one object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from basereward.metrics.calibration_error import CalibrationError
from basereward.metrics.length_bias import LengthBias
from basereward.metrics.mean_margin import MeanMargin
from basereward.metrics.pair_accuracy import PairAccuracy
from basereward.metrics.pair_count import PairCount


class PreferenceMetrics(MetricCollection):
    """What is measured over the preferences of one source, summed over all processes.

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
        # Groups share states between classes with equal states, which none of these are.
        super().__init__(metrics, compute_groups=False)

    def update(  # type: ignore[override]
        self, margins: Tensor, *, winner_lengths: Tensor, loser_lengths: Tensor, ties: Tensor | None = None
    ) -> None:
        """Add P preferences: `margins (P,)`, the lengths (P,) of the responses in any one unit, `ties (P,)` of bool."""
        super().update(margins, ties=ties, winner_lengths=winner_lengths, loser_lengths=loser_lengths)

    def compute(self) -> dict[str, float]:
        """`pair_accuracy, pairs, ties, mean_margin, calibration_error, longer_wins, follows_length, equal_lengths`.

        A share of nothing is NaN. All processes of a distributed run must call this, those without rows too.
        """
        return {name: float(value) for name, value in super().compute().items()}


def mean_accuracy(sources: Iterable[Mapping[str, float]]) -> float:
    """The mean over sources of what `compute` gave for each. One without pairs has no accuracy, and takes none from the
    others; of none it is NaN.

    >>> mean_accuracy([{"pair_accuracy": 0.5, "pairs": 2.0}, {"pair_accuracy": float("nan"), "pairs": 0.0}])
    0.5
    """
    accuracies = [values["pair_accuracy"] for values in sources if values["pairs"]]
    return sum(accuracies) / len(accuracies) if accuracies else float("nan")
