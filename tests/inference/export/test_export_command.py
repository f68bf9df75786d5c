"""Test `basereward export` and `basereward import` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest

from basereward.cli import main
from basereward.errors import ModelError
from basereward.inference.export.push import check_repository
from tests.helpers.served_model import save_scored_model


def test_commands_write_and_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake ends with 2 and one line, and writes nothing."""
    model, out = save_scored_model(tmp_path, head="mlp"), tmp_path / "out"
    assert main(["export", str(model), "--out", str(out), "--format", "vllm", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["form"] == "own_code"
    assert {"modeling_reward.py", "vllm_plugin/basereward_vllm/model.py"} <= set(facts["files"])
    refused = tmp_path / "refused"
    assert main(["import", str(out), "--out", str(refused)]) == 2
    assert "reads images" in capsys.readouterr().err
    for options in (["--adapter"], ["--push", "no owner"], ["--push", "owner/name"], ["--format", "gguf"]):
        assert main(["export", str(model), "--out", str(refused), *options]) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert not refused.exists()


def test_upload_needs_a_name_the_hub_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told before the model is loaded."""
    with pytest.raises(ModelError, match="no name of a repository"):
        check_repository("only-a-name")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        check_repository("owner/name")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ModelError, match="no token"):
        check_repository("owner/name")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    check_repository("owner/name")
