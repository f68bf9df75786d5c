"""Every family of transformers: its hidden states in our rows are those of its own forward pass, or it is refused."""

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
    """Tiny products on several threads cost many times what they do on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", [name for name in families.CAUSAL if name not in families.NOT_MADE])
def test_a_causal_family_is_right_in_our_rows_or_refused_by_name(family: str, tmp_path: Path) -> None:
    """Hidden states of all tokens, and of pooled ones, equal the family's own `eager` forward pass of each sequence, in
    rows longer than its windows; what is not right is refused when it is loaded, or for tree rows, with a reason."""
    families.write_tiny(family, tmp_path)
    outcome = families.measure(tmp_path)
    assert max(outcome.differences, default=0.0) < 2e-5
    assert bool(outcome.reason) == (outcome.kind != "tree")
    assert outcome.kind == EXPECTED.get(family, outcome.kind), outcome.reason
    if outcome.kind == "refused":
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] in outcome.reason


@pytest.mark.parametrize("family", [name for name in families.IMAGE_TEXT if name not in families.NOT_MADE])
def test_an_image_family_that_is_not_supported_is_refused_by_name(family: str, tmp_path: Path) -> None:
    """Before any weight is read, and for text too."""
    config = CONFIG_MAPPING[family]()
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"is an? {config.model_type} model"):
        load_config(tmp_path)


def test_the_table_names_every_family_once() -> None:
    """No family is in two of its lists, and none is unknown to transformers."""
    named = [*families.TREE, *families.PLAIN, *families.REFUSED]
    assert len(named) == len(set(named))
    assert not set(named) & families.NOT_MADE.keys()


def test_a_family_that_takes_plain_rows_only_refuses_tree_rows_with_a_way_out(tmp_path: Path) -> None:
    """The error says which family, why, and what to set."""
    families.write_tiny("bloom", tmp_path)
    backbone = load_backbone(tmp_path)
    with pytest.raises(ModelError, match=r"bloom.*AttentionInterface.*batch\.layout=plain"):
        backbone(collate([encoded_group(6, [4, 3])], layout="tree", pad_id=0))
    with pytest.raises(ModelError, match=r"batch\.layout=plain"):
        backbone.check_layout("tree")
    backbone.check_layout("plain")
