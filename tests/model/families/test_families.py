"""Every model family of transformers: its hidden states in our rows equal those of its own forward pass, or it is
refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from basereward.data.batching.collate import collate
from basereward.errors import ModelError
from basereward.model.backbone import load_backbone, load_config
from tests.helpers import families
from tests.helpers.support import encoded_group

pytestmark = pytest.mark.slow

EXPECTED = {
    **dict.fromkeys(families.TREE, "tree"),
    **dict.fromkeys(families.PLAIN, "plain"),
    **dict.fromkeys(families.REFUSED, "refused"),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because small products take many times longer on several threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("family", [name for name in families.CAUSAL if name not in families.NOT_MADE])
def test_causal_family_is_exact_or_refused(family: str, tmp_path: Path) -> None:
    """Hidden states of all tokens and of pooled tokens equal the family's own `eager` forward pass of each sequence, in
    rows longer than its windows. Other families are refused with a reason at loading or for tree rows."""
    families.write_tiny(family, tmp_path)
    outcome = families.measure(tmp_path)
    assert max(outcome.differences, default=0.0) < 2e-5
    assert bool(outcome.reason) == (outcome.kind != "tree")
    assert outcome.kind == EXPECTED.get(family, outcome.kind), outcome.reason
    if outcome.kind == "refused":
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] in outcome.reason


@pytest.mark.parametrize("family", [name for name in families.IMAGE_TEXT if name not in families.NOT_MADE])
def test_unsupported_image_family_is_refused(family: str, tmp_path: Path) -> None:
    """The family is refused before any weight is read, also for text."""
    config = CONFIG_MAPPING[family]()
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"is an? {config.model_type} model"):
        load_config(tmp_path)


def test_family_lists_are_disjoint() -> None:
    """No family is in two lists, and no listed family is marked as not built."""
    listed = [*families.TREE, *families.PLAIN, *families.REFUSED]
    assert len(listed) == len(set(listed))
    assert not set(listed) & families.NOT_MADE.keys()


def test_plain_row_family_refuses_tree_rows(tmp_path: Path) -> None:
    """The error names the family, the reason and the setting to use."""
    families.write_tiny("bloom", tmp_path)
    backbone = load_backbone(tmp_path)
    with pytest.raises(ModelError, match=r"bloom.*AttentionInterface.*batch\.layout=plain"):
        backbone(collate([encoded_group(6, [4, 3])], layout="tree", pad_id=0))
    with pytest.raises(ModelError, match=r"batch\.layout=plain"):
        backbone.check_layout("tree")
    backbone.check_layout("plain")
