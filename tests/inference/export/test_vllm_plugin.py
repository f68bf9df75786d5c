"""Test the structure of vLLM plug-ins; vLLM itself is not run."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
from transformers import Qwen2_5_VLConfig, Qwen3Config

from basereward.inference.export.modeling_reward import BaseRewardForSequenceClassification
from basereward.inference.export.vllm_plugin import IMAGE_CLASSES, TEXT_CLASSES, write_plugin


@pytest.mark.parametrize("model_type", sorted(TEXT_CLASSES | IMAGE_CLASSES))
def test_plugin_is_a_package(model_type: str, tmp_path: Path) -> None:
    """Its entry point names a function of it, which registers a class of it, by the architecture in config.json."""
    config = Qwen2_5_VLConfig() if model_type in IMAGE_CLASSES else Qwen3Config()
    config.model_type = model_type  # type: ignore[misc]
    write_plugin(tmp_path, config)
    project = tomllib.loads((tmp_path / "vllm_plugin" / "pyproject.toml").read_text())
    module, _, function = project["project"]["entry-points"]["vllm.general_plugins"]["basereward"].partition(":")
    package = tmp_path / "vllm_plugin" / module
    init = ast.parse((package / "__init__.py").read_text())
    assert [node.name for node in init.body if isinstance(node, ast.FunctionDef)] == [function]
    code = (package / "model.py").read_text()
    assert "$" not in code
    model = ast.parse(code)
    classes = {node.name: node for node in model.body if isinstance(node, ast.ClassDef)}
    name = BaseRewardForSequenceClassification.__name__
    (base,) = (node.id for node in classes[name].bases if isinstance(node, ast.Name))
    imported = {
        alias.name: node.module for node in model.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported[base] == f"vllm.model_executor.models.{model_type}"
    assert len(classes[name].decorator_list) == (model_type in IMAGE_CLASSES)
    assert f'"{name}", "{module}.model:{name}"' in ast.unparse(init).replace("'", '"')
