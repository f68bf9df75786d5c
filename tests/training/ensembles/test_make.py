"""Test ensembles of real runs: exact combinations, shared backbones, soups, routes, and members that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from basereward import load, load_recipe
from basereward.cli import main
from basereward.errors import DataError, ModelError
from basereward.evaluation.run_benchmark import evaluate
from basereward.inference.ensemble import Ensemble
from basereward.recipe import make
from basereward.recipe.schema import EnsembleRecipe
from basereward.runs.run_folder import find
from basereward.runs.score_files import read_scores
from basereward.training.ensembles.make import ensemble, make_ensemble
from basereward.training.fit import train
from tests.helpers.benchmark_rows import ANY_SIZE, small_benchmark
from tests.helpers.support import SMALL, group

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
FROZEN = "model.backbone.freeze=[vision,merger,language]"
GROUPS = [
    group(images=1, name="picture"),
    group("Which is larger, 4 or 7?", ("7", "It is 4."), name="text"),
    group("Which?", ("a", "b", "c", "d"), images=2, name="two"),
]


CHANGES = {
    **{
        f"linear{seed}": [FROZEN, "model.head={_target_: linear}", "optimizer.lr=1e-2", f"seeds.init={seed}"]
        for seed in range(3)
    },
    "mean": [FROZEN, "model.head={_target_: linear}", "optimizer.lr=1e-2", "model.pooling=mean"],
    "mlp": [FROZEN, "seeds.init=3"],
    **{f"whole{seed}": [f"seeds.init={seed}"] for seed in range(2)},
    "other": [FROZEN, "data.sources.digits.seed=5"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Return the folder of this file's runs."""
    folder = tmp_path_factory.mktemp("ensembles")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the same runs and store for all tests of this file."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    monkeypatch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def runs(place: Path) -> dict[str, str]:
    """Return run ids by name: three linear heads on one frozen backbone, one that pools the mean, an MLP on it, two
    whole models, and one trained on other data."""
    ids_file = place / "known.json"
    if not ids_file.exists():
        run_ids = {}
        for name, overrides in CHANGES.items():
            recipe = load_recipe(
                "basereward", overrides=[*SMALL, "trainer.steps=2", "trainer.validations=1", *overrides]
            )
            result: Any = train(recipe)
            run_ids[name] = result["run_id"]
        ids_file.write_text(json.dumps(run_ids))
    runs: dict[str, str] = json.loads(ids_file.read_text())
    return runs


def own(name: str) -> list[np.ndarray[Any, Any]]:
    """Return a model's scores of the groups."""
    return [np.array(scores) for scores in load(name).score_groups(GROUPS)]


def scored(model: str) -> list[float]:
    """Return a model's scores of all responses of the groups as one list."""
    return [score for scores in load(model).score_groups(GROUPS) for score in scores]


@pytest.mark.parametrize("how", ["mean", "accuracy", "confidence", "learned", "standardised", "worst", "pessimistic"])
def test_scores_are_exactly_combined(how: str, runs: dict[str, str]) -> None:
    """The ensemble has three models, two of them with their own backbones; its scores equal numpy's combination of
    their scores to 1e-6."""
    names = [runs["linear0"], runs["whole0"], runs["whole1"]]
    if how == "confidence":
        names = sorted(runs.values(), key=_confidence)[-3:]
        names = [name for name in names if name != runs["other"]][:2]
    result = ensemble(names, how=how, k=0.7)
    scores = [np.stack(member_scores) for member_scores in zip(*map(own, names), strict=True)]
    weights = np.array([member["weight"] or 0.0 for member in result["members"]])
    if how in ("accuracy", "confidence"):
        assert weights.sum() == pytest.approx(1.0)
    cards = [json.loads((find(name).model / "reward_model.json").read_text())["scores"] for name in names]
    means, stds = (np.array([card[key] for card in cards])[:, None] for key in ("mean", "std"))
    expected = {
        "standardised": lambda matrix: ((matrix - means) / stds).mean(0),
        "worst": lambda matrix: matrix.min(0),
        "pessimistic": lambda matrix: matrix.mean(0) - 0.7 * matrix.std(0),
        "mean": lambda matrix: matrix.mean(0),
    }.get(how, lambda matrix: weights @ matrix)
    assert scored(result["model"]) == pytest.approx(
        [score for group_scores in scores for score in expected(group_scores)], abs=1e-6
    )
    opened: Any = load(result["run_id"])
    for judged, member_scores in zip(opened.judge_groups(GROUPS), scores, strict=True):
        assert judged.spread == pytest.approx(member_scores.std(0), abs=1e-6)
        assert np.array(judged.members) == pytest.approx(member_scores, abs=1e-6)


def _confidence(run: str) -> float:
    return float(np.mean([margin for group in read_scores(find(run).scores / "val.jsonl") for margin in group.margins]))


def test_accuracy_weights_follow_the_validation_pairs(runs: dict[str, str]) -> None:
    """The weights equal shares of accuracy computed from the runs' own files; with a large `pairs` all pairs count."""
    names = [runs["linear0"], runs["whole0"]]
    result = ensemble(names, how="accuracy", pairs=100_000)
    shares = []
    for name in names:
        margins = [margin for group in read_scores(find(name).scores / "val.jsonl") for margin in group.margins]
        shares.append(np.mean(np.array(margins) > 0))
    assert [member["weight"] for member in result["members"]] == pytest.approx(np.array(shares) / sum(shares))
    assert [member["accuracy"] for member in result["members"]] == pytest.approx(shares)


def test_heads_on_one_backbone_share_one_pass(runs: dict[str, str]) -> None:
    """Four heads need one forward pass of the backbone per batch; with two whole models there are three passes."""
    frozen = [runs[name] for name in ("linear0", "linear1", "linear2", "mlp")]
    opened: Any = load(ensemble(frozen)["model"])
    assert len(opened.scorers) == 1
    calls: list[int] = []
    opened.scorers[0].model.backbone.register_forward_hook(lambda *arguments: calls.append(1))
    list(opened.score_groups(GROUPS, tokens=100_000))
    assert len(calls) == 1
    assert len(load(ensemble([*frozen, runs["whole0"], runs["whole1"]])["model"]).scorers) == 3  # type: ignore[union-attr]


def test_heads_with_different_pooling_share_no_pass(runs: dict[str, str]) -> None:
    """On one frozen backbone, last-token and mean pooling need two passes and give the mean of both scores; a soup is
    refused."""
    names = [runs["linear0"], runs["mean"]]
    model = ensemble(names)["model"]
    opened: Any = load(model)
    assert [scorer.model.pooling.name for scorer in opened.scorers] == ["last", "mean"]
    assert scored(model) == pytest.approx(np.mean([scored(name) for name in names], axis=0), abs=1e-6)
    with pytest.raises(ModelError, match=rf"'{runs['mean']}' was trained with model\.pooling=mean, .* with last"):
        ensemble(names, how="soup")


def test_model_with_mean_pooling_scores_as_in_its_test(runs: dict[str, str]) -> None:
    """The saved model gives the test scores that its run logged."""
    run = find(runs["mean"])
    logged = {group.id: group.scores for group in read_scores(run.scores / "test.jsonl")}
    recipe = load_recipe("basereward", overrides=[*SMALL, *CHANGES["mean"]])
    groups = list(make(recipe.data.sources["numbers"], "sources", "numbers").groups("test"))
    assert len(groups) > 5
    for test_group, scores in zip(groups, load(runs["mean"]).score_groups(groups), strict=True):
        assert scores == pytest.approx(logged[test_group.id], abs=1e-5)


def test_soup_of_linear_heads_has_the_mean_of_their_scores(runs: dict[str, str]) -> None:
    """The soup is a single model, not an ensemble."""
    names = [runs[f"linear{seed}"] for seed in range(3)]
    result = ensemble(names, how="soup")
    mean = np.mean([scored(name) for name in names], axis=0)
    assert scored(result["model"]) == pytest.approx(mean, abs=1e-6)
    assert not isinstance(load(result["model"]), Ensemble)


def test_soup_of_whole_models_has_the_mean_of_their_weights(runs: dict[str, str]) -> None:
    """Every weight is the mean."""
    names = [runs["whole0"], runs["whole1"]]
    first, second, mixed = (load(model).model for model in (*names, ensemble(names, how="soup")["model"]))  # type: ignore[union-attr]
    second_weights = dict(second.named_parameters())
    for (name, weight), (_, mixed_weight) in zip(first.named_parameters(), mixed.named_parameters(), strict=True):
        assert np.allclose(mixed_weight.detach(), (weight.detach() + second_weights[name].detach()) / 2, atol=1e-7), (
            name
        )


def test_text_route_scores_prompts_without_pictures(runs: dict[str, str]) -> None:
    """The text members alone score prompts without pictures, and the other members alone score the others."""
    pictures, text = runs["whole0"], runs["whole1"]
    result = ensemble([pictures], text=[text])
    assert [(member["weight"], member["text_weight"]) for member in result["members"]] == [(1.0, 0.0), (0.0, 1.0)]
    opened: Any = load(result["model"])
    combined = list(opened.score_groups(GROUPS))
    for scores, scored_group, picture_scores, text_scores in zip(
        combined, GROUPS, own(pictures), own(text), strict=True
    ):
        assert scores == pytest.approx(picture_scores if scored_group.images else text_scores, abs=1e-6)


def test_ensemble_is_listed_scored_evaluated_and_saved(
    runs: dict[str, str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command creates it; it is in MLflow, scores files, is evaluated, and is saved with its members."""
    names = [runs["linear0"], runs["whole0"]]
    assert main(["ensemble", *names, "--name", "pair", "--json"]) == 0
    created = json.loads(capsys.readouterr().out)
    assert created["accuracy"] is not None
    client = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiment = client.get_experiment_by_name("ensembles")
    assert experiment is not None
    mlflow_runs = client.search_runs([experiment.experiment_id], "tags.`basereward.ensemble` = 'mean'")
    assert "val/pair_accuracy" in mlflow_runs[0].data.metrics
    rows = place / "rows.jsonl"
    rows.write_text('{"prompt": "Which is larger, 4 or 7?", "responses": ["7", "It is 4."]}\n')
    assert main(["score", created["run_id"], str(rows), "--out", str(place / "scores.jsonl")]) == 0
    scores = json.loads((place / "scores.jsonl").read_text())["scores"]
    assert scores == pytest.approx(load(created["run_id"]).score("Which is larger, 4 or 7?", ["7", "It is 4."]))
    if not (place / "data").exists():
        small_benchmark(place / "data", rows=12)
    result = evaluate(created["run_id"], ["vl_rewardbench"], overrides=[f"data={place}/data/rows.json", *ANY_SIZE])
    assert result["evaluations"][0]["scored"] == 12
    before = scored(created["run_id"])
    load(created["run_id"]).save(place / "copied")
    for name in names:
        shutil.move(find(name).model, place / "away")
        try:
            assert scored(str(place / "copied")) == before
            with pytest.raises(ModelError, match=f"member '{name}'"):
                load(created["run_id"])
        finally:
            shutil.move(place / "away", find(name).model)


def test_members_that_do_not_fit_are_refused(runs: dict[str, str], place: Path) -> None:
    """Members are missing, without validation scores, validated on other data, of another kind, or changed; the error
    names them."""
    linear = runs["linear0"]
    with pytest.raises(LookupError, match="none-such"):
        ensemble([linear, "none-such"])
    with pytest.raises(ModelError, match=f"two or more members.*{linear}"):
        ensemble([linear])
    bare = place / "bare"
    if not bare.exists():
        shutil.copytree(find(runs["linear1"]).model, bare)
    with pytest.raises(ModelError, match=rf"member '{bare}' has no validation scores"):
        ensemble([linear, str(bare)], how="accuracy")
    assert ensemble([linear, str(bare)])["accuracy"] is None
    with pytest.raises(ModelError, match=f"member '{runs['other']}' was validated on other pairs"):
        ensemble([linear, runs["other"]], how="learned")
    with pytest.raises(ModelError, match=f"member '{runs['mlp']}' has another head"):
        ensemble([linear, runs["mlp"]], how="soup")
    with pytest.raises(ModelError, match="another kind"):
        ensemble([linear, runs["whole0"]], how="soup")
    result = ensemble([linear, str(bare)])
    (bare / "recipe.yaml").write_text((bare / "recipe.yaml").read_text() + "\n# changed\n")
    with pytest.raises(ModelError, match="has changed"):
        load(result["run_id"])
    with pytest.raises(ModelError, match="is an ensemble"):
        ensemble([linear, ensemble([linear, runs["mlp"]])["run_id"]])


def test_same_model_under_two_names_is_refused(runs: dict[str, str], place: Path) -> None:
    """The names are the id, the folder, or a copy of the folder; in the text route the same model is the same
    member."""
    linear, mlp = runs["linear0"], runs["mlp"]
    copied = place / "copied_linear"
    shutil.copytree(find(linear).model, copied, dirs_exist_ok=True)
    for name in (linear, str(find(linear).path), str(find(linear).model), str(copied)):
        with pytest.raises(ModelError, match=f"is the same model as '{linear}' and would count twice"):
            ensemble([linear, mlp, name])
    result = ensemble([linear, mlp], text=[str(find(mlp).path)])
    assert [member["name"] for member in result["members"]] == [linear, mlp]
    assert [(member["weight"], member["text_weight"]) for member in result["members"]] == [(0.5, 0.0), (0.5, 1.0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--how", "learned", "--seed", "-1"], "seed: a seed is from 0 to 4294967295; -1 given", id="seed"),
        pytest.param(["--how", "pessimistic", "--k", "nan"], "k: must be a finite number of at least 0; nan", id="nan"),
        pytest.param(["--how", "pessimistic", "--k", "inf"], "k: must be a finite number of at least 0; inf", id="inf"),
        pytest.param(["--pairs", "0"], "pairs: must be at least 1; 0 given", id="pairs"),
        pytest.param(["--how", "soup", "--text", "c"], "text: a soup is one model", id="soup for text"),
    ],
)
def test_invalid_ensemble_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 without a traceback, before any model is looked up."""
    assert main(["ensemble", "a", "b", *arguments, "--json"]) == 2
    printed = capsys.readouterr()
    assert message in json.loads(printed.out)["error"]["message"]
    assert "Traceback" not in printed.err


def test_learned_weights_are_printed_with_their_intervals(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Text and JSON have the weights and intervals of each route, equal to those of the applied rule."""
    pictures, both = runs["whole0"], runs["whole1"]
    arguments = ["ensemble", pictures, both, "--how", "learned", "--text", both]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    opened: Any = load(result["run_id"])
    for index, member in enumerate(result["members"]):
        assert member["weight"] == opened.rule.weights[index]
        assert member["text_weight"] == opened.rule.text_weights[index]
        low, high = member["interval"]
        assert low < high
    assert result["members"][0]["text_interval"] is None
    low, high = result["members"][1]["text_interval"]
    assert [low, high] == list(opened.rule.text_intervals[1])
    assert main(arguments) == 0
    head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "member"
    assert [word for word in ("weight with images", "weight without", "95 %", "accuracy") if word not in head] == []
    assert f"{low:.4f} to {high:.4f}" in second
    assert " - " in first
    for scored_group, judged in zip(GROUPS, opened.judge_groups(GROUPS), strict=True):
        column = "weight" if scored_group.images else "text_weight"
        weights = np.array([member[column] for member in result["members"]])
        # The scores of a member that does not score such prompts are NaN.
        expected = np.nansum(weights[:, None] * np.array(judged.members), axis=0)
        assert judged.scores == pytest.approx(expected.tolist(), rel=1e-9)


def test_lost_test_rows_are_logged(runs: dict[str, str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow has the counts by reason over all sources, like those of a run."""
    rejections = {"digits": {"too_long": 2}, "numbers": {"too_long": 1, "empty_response": 4}}
    monkeypatch.setattr(
        "basereward.training.ensembles.make.run_test", lambda *_: {"metrics": {}, "pair_s": None, "skipped": rejections}
    )
    recipe = EnsembleRecipe(members=[runs["linear0"], runs["mlp"]])
    result = make_ensemble(recipe, name="lossy", tested=True)
    assert result["skipped"] == rejections
    mlflow_run = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db").get_run(find(result["run_id"]).mlflow_run_id)
    lost = {name: value for name, value in mlflow_run.data.metrics.items() if name.startswith("data/skipped/")}
    assert lost == {"data/skipped/too_long": 3.0, "data/skipped/empty_response": 4.0}


def test_nan_score_names_member_and_group(runs: dict[str, str]) -> None:
    """A group that only the other member scores still has its scores."""
    opened: Any = load(ensemble([runs["whole0"]], text=[runs["whole1"]])["model"])
    head = next(parameter for parameter in opened.scorers[1].model.head.parameters())
    head.data.fill_(float("nan"))
    assert len(list(opened.score_groups(GROUPS[:1]))) == 1
    with pytest.raises(ModelError, match=f"{runs['whole1']}.*'text'.*NaN"):
        list(opened.score_groups(GROUPS[1:]))


def test_group_that_a_member_cannot_score_names_the_member(runs: dict[str, str]) -> None:
    """The error names the member."""
    opened: Any = load(ensemble([runs["linear0"], runs["whole0"]])["model"])
    with pytest.raises(DataError, match=runs["linear0"]):
        list(opened.score_groups([group("x" * 4000)]))
