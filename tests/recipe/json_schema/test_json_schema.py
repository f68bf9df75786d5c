"""The JSON schemas accept every shipped file and refuse a wrong key; the files of the schemas are up to date."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from basereward.errors import RecipeError
from basereward.evaluation.published.json_schema import published_schema
from basereward.recipe.json_schema.documents import DOCUMENTS
from basereward.recipe.json_schema.files import write_schema
from basereward.recipe.yaml.files import MODELINE, parse_yaml, read_yaml

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "experiments"
FILES = sorted(FOLDER.rglob("*.yaml"))
SCHEMAS = {**DOCUMENTS, "published": published_schema}


@functools.cache
def validator(kind: str) -> Draft7Validator:
    """Return the validator of the schema as the code makes it."""
    return Draft7Validator(SCHEMAS[kind]())


def schema_of(file: Path) -> Path:
    """Return the file that the first line of a YAML file names."""
    first = file.read_text().splitlines()[0]
    head = f"# {MODELINE} $schema="
    assert first.startswith(head), file
    return (file.parent / first.removeprefix(head)).resolve()


def faults(kind: str, content: dict[str, Any]) -> list[str]:
    """Return the dotted keys at which a content is refused."""
    return [".".join(map(str, error.absolute_path)) for error in validator(kind).iter_errors(content)]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_shipped_schema_is_the_one_of_the_code(kind: str) -> None:
    """It is written by `basereward schema KIND --out experiments/schemas/KIND.json`."""
    shipped = json.loads((FOLDER / "schemas" / f"{kind}.json").read_text())
    assert shipped == json.loads(json.dumps(validator(kind).schema))
    Draft7Validator.check_schema(shipped)


@pytest.mark.parametrize("file", FILES, ids=[file.relative_to(FOLDER).as_posix() for file in FILES])
def test_shipped_file_is_accepted_and_a_wrong_key_in_it_is_not(file: Path) -> None:
    """By the schema that its first line names."""
    schema = schema_of(file)
    assert schema.is_file()
    content = read_yaml(file)
    assert faults(schema.stem, content) == []
    assert faults(schema.stem, copy.deepcopy(content) | {"no_such_key": 1}) == [""]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("optimizer: {lrr: 1}", "optimizer"),
        ("optimizer: {lr: fast}", "optimizer.lr"),
        ("optimizer: {lr: -1}", "optimizer.lr"),
        ("optimizer: {betas: [0.9, 1.5]}", "optimizer.betas"),
        ("trainer: {precision: 64}", "trainer.precision"),
        ("model: {pooling: first}", "model.pooling"),
        ("model: {backbone: {lora: 1}}", "model.backbone"),
        ("model: {head: {_target_: mlpp}}", "model.head._target_"),
        ("model: {head: {_target_: mlp, layrs: 2}}", "model.head"),
        ("model: {head: {_target_: mlp, layers: 0}}", "model.head.layers"),
        ("model: {head: {_target_: mlp, activation: slu}}", "model.head.activation"),
        ("data: {sources: {digits: {include: sources/digits, copeis: 2}}}", "data.sources.digits"),
        ("data: {sources: {mine: {_target_: hub, shape: {_target_: mm_rlhf, frame: 1}}}}", "data.sources.mine.shape"),
        ("grid: {optimizer.lrr: [1, 2]}", "grid"),
        ("grid: {optimizer.lr: 1}", "grid.optimizer.lr"),
        ("grid: {recipe: {a: {optimiser: {}}}}", "grid.recipe"),
        ("seeds: [a]", "seeds"),
        ("ensembles: {all: {how: average}}", "ensembles.all"),
        ("profiles: {tiny: {trainer: {step: 3}}}", "profiles.tiny.trainer"),
        ("sweep: {grid: {}}", "sweep"),
    ],
)
def test_mistake_is_refused_at_its_key(text: str, key: str) -> None:
    """Also inside of nodes, axes and the sections of profiles."""
    found = faults("experiment", parse_yaml(text, origin="here"))
    # A value that fits none of several forms is refused at the value itself.
    assert found
    assert all(fault == key or key.startswith(f"{fault}.") for fault in found), found


@pytest.mark.parametrize(
    "text",
    [
        "optimizer: {lr: '${trainer.clip}'}",
        "model: {head: {_target_: my_module.MyHead, anything: 1}}",
        "model: {head: {layers: 3}}",
        "data: {sources: {numbers: null, mine: {include: sources/mine, anything: 1}}}",
        "grid: {model.head.layers: [1, 2], data.sources.digits.copies: {few: 1}, model.head: null}",
        "seeds: {init: 1}",
        "seeds: [0, 1]",
    ],
)
def test_right_file_is_accepted(text: str) -> None:
    """References, classes of the user, parts of nodes, and null, which removes."""
    assert faults("experiment", parse_yaml(text, origin="here")) == []


def test_keys_have_descriptions_defaults_and_choices() -> None:
    """What an editor shows comes from the comments, the defaults and the literals of the code."""
    definitions = validator("experiment").schema["definitions"]
    steps = definitions["trainer"]["properties"]["steps"]
    assert (steps["description"], steps["default"]) == ("optimizer steps", None)
    assert definitions["schedule"]["properties"]["shape"]["anyOf"][0]["enum"] == ["constant", "linear", "cosine"]
    (mlp,) = [
        rule for rule in definitions["heads"]["allOf"] if rule["if"].get("properties") == {"_target_": {"const": "mlp"}}
    ]
    layers = mlp["then"]["properties"]["layers"]
    assert (layers["default"], layers["description"]) == (2, "number of linear layers; one layer is a linear head.")
    assert layers["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 64}


def test_schema_replaces_only_a_schema(tmp_path: Path) -> None:
    """A user's file of that name stays as it is."""
    file = tmp_path / "x.json"
    write_schema({"title": "BaseReward source"}, file)
    write_schema({"title": "BaseReward data"}, file)
    assert json.loads(file.read_text()) == {"title": "BaseReward data"}
    for text in ('{"title": "mine"}', "[]", "no JSON"):
        file.write_text(text)
        with pytest.raises(RecipeError):
            write_schema({}, file)
        assert file.read_text() == text
    with pytest.raises(RecipeError):
        write_schema({}, tmp_path / "missing" / "x.json")
