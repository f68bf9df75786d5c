"""The published mixtures: they load, and have the sizes and ratios of the paper."""

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
# Number of pairs of each set in the paper's Table 3.
PAPER = {"rlaif_v": 83_000, "mmpr": 2_000_000, "r1_reward": 200_000, "tulu_3": 65_000, "olmo_2": 378_000} | {
    "ultra_hard": 63_000, "others": 63_000, "mmif": 22_000, "omni_align": 120_000, "shp": 348_000, "ultra_all": None,
}  # fmt: skip
MULTIMODAL = {"rlaif_v", "mmpr", "mm_rlhf", "vl_feedback", "povid", "wildvision_battle", "rlhf_v"}
TEXT = {"tulu3_if", "olmo2_preference_mix", "ultra_feedback_hard", "tulu3_wildchat", "tulu3_ultrafeedback", "swe_arena"}


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find experiments from any working directory."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(FOLDER))


def mixture(recipe: Recipe) -> Mixture:
    """Return the mixture of a recipe with sources as large as their limits, as in the paper."""
    section = recipe.data.mixture
    sizes = {name: section.limits[name] for name in recipe.data.sources}
    return Mixture(sizes, weights=section.weights, limits=section.limits, stop=section.stop)


@pytest.mark.parametrize("name", [*MIXTURES, *GRIDS])
def test_every_mixture_loads_on_the_large_profile(name: str) -> None:
    """No cell has a fault, and the profile's own source is replaced."""
    cells, faults = find_faults(name, profile=PROFILE)
    assert faults == []
    assert all("pairs" not in cell.recipe.data.sources for cell in cells)


@pytest.mark.parametrize("profile", ["tiny", PROFILE])
def test_basereward_data_has_the_sizes_of_the_paper(profile: str) -> None:
    """2,283,000 image pairs and 569,000 text pairs on every profile; an epoch has as many groups of each source as its
    limit."""
    recipe = load_recipe("mixtures/basereward_data", profile=profile)
    assert recipe.data.sources.keys() == MULTIMODAL | TEXT
    counts = mixture(recipe).counts
    assert sum(counts[name] for name in MULTIMODAL) == 2_283_000
    assert sum(counts[name] for name in TEXT) == 569_000
    assert counts["mmpr"] == PAPER["mmpr"]
    assert counts["rlaif_v"] == PAPER["rlaif_v"]


def test_multimodal_and_text_halves_form_the_whole() -> None:
    """Together they have each source of the whole once, with the same arguments and limits."""
    complete, images, text = (
        load_recipe(f"mixtures/{name}", profile=PROFILE).data
        for name in ("basereward_data", "multimodal_only", "text_only")
    )
    assert images.sources.keys() == MULTIMODAL
    assert text.sources.keys() == TEXT
    assert images.sources | text.sources == complete.sources
    assert images.mixture.limits | text.mixture.limits == complete.mixture.limits


def test_single_source_has_the_cells_of_table_4() -> None:
    """Eleven cells, each with one set of the paper in its size; nothing else varies."""
    cells = load_cells("single_source", profile=PROFILE)
    assert {cell.name for cell in cells} == {f"data={name}" for name in PAPER}
    used = [name for cell in cells for name in cell.recipe.data.sources]
    assert len(used) == len(set(used)) == 17
    for cell in cells:
        recipe, size = cell.recipe, PAPER[cell.name.removeprefix("data=")]
        assert list(cell.overrides) == ["data"]
        assert not recipe.data.mixture.weights
        assert not size or sum(recipe.data.mixture.limits.values()) == size


@pytest.mark.parametrize("index", range(5))
def test_text_ratio_is_exact(index: int) -> None:
    """The weights of 1:0, 1:0.25, 1:0.5, 1:1 and 0:1 are exact, the counts of an epoch are within one group per source,
    and all cells have the same number of steps."""
    ratios = ["1:0", "1:0.25", "1:0.5", "1:1", "0:1"]
    cells = load_cells("text_ratio", profile=PROFILE)
    assert [cell.name for cell in cells] == [f"data={ratio}" for ratio in ratios]
    recipe = cells[index].recipe
    images, text = map(Fraction, ratios[index].split(":"))
    weights = {name: Fraction(str(weight)) for name, weight in recipe.data.mixture.weights.items()}
    assert sum(weights[name] for name in MULTIMODAL & weights.keys()) == images
    assert sum(weights[name] for name in TEXT & weights.keys()) == text
    epoch_mixture = mixture(recipe)
    share = Fraction(
        sum(epoch_mixture.counts[name] for name in TEXT & epoch_mixture.counts.keys()), epoch_mixture.epoch_size
    )
    assert abs(share - text / (images + text)) <= Fraction(len(weights), epoch_mixture.epoch_size)
    assert recipe.trainer.steps == 569_000 // recipe.batch.groups


def test_text_ratio_weights_are_proportional_to_sizes() -> None:
    """Each weight is the share of a set in its half, to four digits."""
    (cell,) = [cell for cell in load_cells("text_ratio", profile=PROFILE) if cell.name == "data=1:1"]
    section = cell.recipe.data.mixture
    for half in (MULTIMODAL, TEXT):
        total = sum(section.limits[name] for name in half)
        assert {name: section.weights[name] for name in half} == pytest.approx(
            {name: section.limits[name] / total for name in half}, abs=1e-4
        )


@pytest.mark.parametrize("experiment", ["text_only", "ensembles"])
def test_text_models_read_only_text(experiment: str) -> None:
    """On both profiles; the other cells also read images."""
    for profile in ("tiny", PROFILE):
        for cell in load_cells(experiment, profile=profile):
            sources = cell.recipe.data.sources.keys()
            weights = cell.recipe.data.mixture.weights
            used = {name for name in sources if not weights or weights[name]}
            if cell.name.endswith("_text"):
                assert used <= TEXT | {"numbers"}
            else:
                assert used & (MULTIMODAL | {"digits"})


def test_tiny_profile_has_the_same_ratios() -> None:
    """The cells have the same names, with the sources of the tiny profile."""
    cells = load_cells("text_ratio", profile="tiny")
    assert [cell.name for cell in cells] == [cell.name for cell in load_cells("text_ratio", profile=PROFILE)]
    for cell in cells:
        data = cell.recipe.data
        epoch_mixture = Mixture(dict.fromkeys(data.sources, 3000), weights=data.mixture.weights)
        images, text = map(Fraction, cell.name.removeprefix("data=").split(":"))
        assert Fraction(epoch_mixture.counts["numbers"], epoch_mixture.epoch_size) == text / (images + text)
