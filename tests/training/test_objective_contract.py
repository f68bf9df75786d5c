"""The contract of objectives: what cannot train is refused where it is built, or at its first micro-batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from basereward.data.batching.pooled import PooledGroup, collate_pooled
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.schema.group import Preference
from basereward.errors import ModelError
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.recipe.trust import trusting
from basereward.training.objectives.contracts import build_objective


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Allow objectives from outside of the package."""
    with trusting(True):
        yield


class Scores(nn.Module):
    """A model whose scores are weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, batch: TreeBatch) -> Tensor:
        """Scores `(2,)`."""
        return self.scores


def batch() -> TreeBatch:
    """One pair, of which the first is preferred."""
    return collate_pooled([PooledGroup("pair", "made", (Preference(0, 1),), (3, 3), torch.zeros(2, 1))])


def node(name: str) -> dict[str, str]:
    """The node of an objective of `odd_losses`."""
    return {"_target_": f"tests.helpers.odd_losses.{name}"}


@pytest.mark.parametrize("name", ["UninitializedObjective", "ObjectiveWithoutLoss"])
def test_constructor_that_leaves_out_its_base_is_refused(name: str) -> None:
    """The error names the call that is missing."""
    with pytest.raises(ModelError, match=rf"{name}.*super\(\).__init__"):
        build_objective(node(name), loss=BradleyTerry(), head=nn.Linear(8, 1))


@pytest.mark.parametrize(
    ("name", "message"), [("DetachedObjective", "without gradients"), ("VectorObjective", r"float32 of shape \(2,\)")]
)
def test_loss_that_cannot_train_is_refused(name: str, message: str) -> None:
    """The error says what the objective gave."""
    objective = build_objective(node(name), loss=BradleyTerry(), head=nn.Linear(8, 1))
    with pytest.raises(ModelError, match=f"{name}.*{message}"):
        objective(Scores(), batch())  # type: ignore[arg-type]


def test_ranking_gives_the_loss_of_its_pairs() -> None:
    """Without gradients too: -log sigmoid(1) is 0.3133."""
    objective = build_objective(None, loss=BradleyTerry(), head=nn.Linear(8, 1))
    with torch.no_grad():
        loss, _ = objective(Scores(), batch())  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(0.313262, abs=1e-6)
