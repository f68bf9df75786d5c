"""The mixtures that we publish: they can be run, and they are the paper's sizes and the ratios that they say."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from basereward.data.mixing.mixture import Mixture
from basereward.recipe import find_faults, load_cells, load_recipe
from basereward.recipe.schema import Recipe

FOLDER = Path(__file__).parents[3] / "experiments"
PROFILE = "qwen2_5_vl_7b"
MIXTURES = sorted(f"mixtures/{file.stem}" for file in (FOLDER / "mixtures").glob("*.yaml"))
GRIDS = ("single_source", "text_ratio", "text_only", "ensembles")
# The paper's Table 3, and our sources for each of its sets.
PAPER = {"rlaif_v": 83_000, "mmpr": 2_000_000, "r1_reward": 200_000, "tulu_3": 65_000, "olmo_2": 378_000} | {
    "ultra_hard": 63_000, "others": 63_000, "mmif": 22_000, "omni_align": 120_000, "shp": 348_000, "ultra_all": None,
}  # fmt: skip
MULTIMODAL = {"rlaif_v", "mmpr", "mm_rlhf", "vl_feedback", "povid", "wildvision_battle", "rlhf_v"}
TEXT = {"tulu3_if", "olmo2_preference_mix", "ultra_feedback_hard", "tulu3_wildchat", "tulu3_ultrafeedback", "swe_arena"}


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(FOLDER))


def mixture(recipe: Recipe) -> Mixture:
    """The mixture of a recipe whose sources are as large as their limits, as they are in the paper."""
    given = recipe.data.mixture
    sizes = {name: given.limits[name] for name in recipe.data.sources}
    return Mixture(sizes, weights=given.weights, limits=given.limits, stop=given.stop)


@pytest.mark.parametrize("name", [*MIXTURES, *GRIDS])
def test_every_mixture_is_right_on_the_large_profile(name: str) -> None:
    """All cells, all arguments of all sources, nothing left of what the profile brings."""
    cells, faults = find_faults(name, profile=PROFILE)
    assert faults == []
    assert all("pairs" not in cell.recipe.data.sources for cell in cells)


@pytest.mark.parametrize("profile", ["tiny", PROFILE])
def test_basereward_data_is_the_paper_s(profile: str) -> None:
    """Seven sets, 2,852,000 pairs, the same on every profile; an epoch has each as often as its limit says."""
    recipe = load_recipe("mixtures/basereward_data", profile=profile)
    assert recipe.data.sources.keys() == MULTIMODAL | TEXT
    counts = mixture(recipe).counts
    assert sum(counts[name] for name in MULTIMODAL) == 2_283_000
    assert sum(counts[name] for name in TEXT) == 569_000
    assert counts["mmpr"] == PAPER["mmpr"]
    assert counts["rlaif_v"] == PAPER["rlaif_v"]


def test_the_halves_are_the_halves() -> None:
    """Together they have each source of the whole once, with the same arguments and limits."""
    whole, images, text = (
        load_recipe(f"mixtures/{name}", profile=PROFILE).data
        for name in ("basereward_data", "multimodal_only", "text_only")
    )
    assert images.sources.keys() == MULTIMODAL
    assert text.sources.keys() == TEXT
    assert images.sources | text.sources == whole.sources
    assert images.mixture.limits | text.mixture.limits == whole.mixture.limits


def test_single_source_is_table_4() -> None:
    """Eleven cells, each with one of the paper's sets in its size, and nothing else varied."""
    cells = load_cells("single_source", profile=PROFILE)
    assert {cell.name for cell in cells} == {f"data={name}" for name in PAPER}
    used = [name for cell in cells for name in cell.recipe.data.sources]
    assert len(used) == len(set(used)) == 17
    for cell in cells:
        recipe, size = cell.recipe, PAPER[cell.name.removeprefix("data=")]
        assert list(cell.overrides) == ["data"]
        assert not recipe.data.mixture.weights
        assert not size or sum(recipe.data.mixture.limits.values()) == size


@pytest.mark.parametrize("place", range(5))
def test_text_ratio_is_exact(place: int) -> None:
    """1:0, 1:0.25, 1:0.5, 1:1 and 0:1, exact in the weights, to one group a source in an epoch; as many steps each."""
    ratios = ["1:0", "1:0.25", "1:0.5", "1:1", "0:1"]
    cells = load_cells("text_ratio", profile=PROFILE)
    assert [cell.name for cell in cells] == [f"data={ratio}" for ratio in ratios]
    recipe = cells[place].recipe
    images, text = map(Fraction, ratios[place].split(":"))
    weights = {name: Fraction(str(weight)) for name, weight in recipe.data.mixture.weights.items()}
    assert sum(weights[name] for name in MULTIMODAL & weights.keys()) == images
    assert sum(weights[name] for name in TEXT & weights.keys()) == text
    mixed = mixture(recipe)
    share = Fraction(sum(mixed.counts[name] for name in TEXT & mixed.counts.keys()), mixed.epoch_size)
    assert abs(share - text / (images + text)) <= Fraction(len(weights), mixed.epoch_size)
    assert recipe.trainer.steps == 569_000 // recipe.batch.groups


def test_text_ratio_keeps_the_sets_of_a_half_in_the_ratio_of_their_sizes() -> None:
    """Each weight is its set's share of its half, to four digits."""
    (cell,) = [cell for cell in load_cells("text_ratio", profile=PROFILE) if cell.name == "data=1:1"]
    given = cell.recipe.data.mixture
    for half in (MULTIMODAL, TEXT):
        total = sum(given.limits[name] for name in half)
        assert {name: given.weights[name] for name in half} == pytest.approx(
            {name: given.limits[name] / total for name in half}, abs=1e-4
        )


@pytest.mark.parametrize("experiment", ["text_only", "ensembles"])
def test_models_of_text_read_text_alone(experiment: str) -> None:
    """On both profiles, and the others what has pictures too."""
    for profile in ("tiny", PROFILE):
        for cell in load_cells(experiment, profile=profile):
            sources = cell.recipe.data.sources.keys()
            weights = cell.recipe.data.mixture.weights
            read = {name for name in sources if not weights or weights[name]}
            if cell.name.endswith("_text"):
                assert read <= TEXT | {"numbers"}
            else:
                assert read & (MULTIMODAL | {"digits"})


def test_the_tiny_grid_has_the_same_ratios() -> None:
    """On the sources of the tiny profile, under the same names of cells."""
    cells = load_cells("text_ratio", profile="tiny")
    assert [cell.name for cell in cells] == [cell.name for cell in load_cells("text_ratio", profile=PROFILE)]
    for cell in cells:
        data = cell.recipe.data
        mixed = Mixture(dict.fromkeys(data.sources, 3000), weights=data.mixture.weights)
        images, text = map(Fraction, cell.name.removeprefix("data=").split(":"))
        assert Fraction(mixed.counts["numbers"], mixed.epoch_size) == text / (images + text)
