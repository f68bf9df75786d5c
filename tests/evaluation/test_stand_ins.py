"""Test the stand-ins of published benchmarks: their layout, what they are made of, and that they are written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from basereward.data.sources.digits import Digits
from basereward.errors import RecipeError
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.benchmarks.stand_in import StandIn
from basereward.evaluation.benchmarks.stand_in_names import stand_in_file
from basereward.evaluation.items import JudgedItem, Outcome
from basereward.evaluation.published.published_value import VARIANTS
from tests.helpers.benchmark_rows import ANY_SIZE

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "stand_ins"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the rows anew."""
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_published_benchmark_reads_the_rows(name: str) -> None:
    """The benchmark itself gives the same items from the made folder, every picture opens, and perfect scores are all
    right under the published variant."""
    made = load_benchmark(stand_in_file(name), overrides=["items=48"])
    assert made.name == f"stand_in_{name}"
    assert made.name not in VARIANTS
    assert (len(made.items), made.partial, made.expected_items) == (48, None, None)
    (folder,) = {path.parent for path in made.inputs if path.is_file()}
    read = load_benchmark(name, overrides=[f"data={folder / 'rows.jsonl'}", f"images={folder}", *ANY_SIZE])
    assert list(read.items) == list(made.items)
    assert made.fingerprint["pictures"] is not None
    judged: list[JudgedItem] = []
    for item in made.items:
        judged.append(
            JudgedItem(item, Outcome(scores=tuple(float(i in item.right) for i in range(len(item.responses)))))
        )
    published = next(iter(made.variants.values()))(judged)
    if name != "best_of_n":
        assert {measure.value for measure in published.values() if measure.denominator} == {1.0}


def test_rows_are_of_scans_that_no_profile_trains_on() -> None:
    """The pictures are those of the test split of `digits`, which is the same for every size and number of answers."""
    made = load_benchmark(stand_in_file("vl_rewardbench"), overrides=["items=24"])
    test = Digits("digits", answers=3, true_answers=1, copies=3).groups("test")
    train = Digits("digits").groups("train")
    shown = {made.store.find(item.images[0]).read_bytes() for item in made.items}  # type: ignore[union-attr]
    assert len(shown) == 24
    assert {group.id for group in test}.isdisjoint(group.id for group in train)
    for item, group in zip(made.items, test, strict=False):
        with Image.open(made.store.find(item.images[0])) as picture:  # type: ignore[arg-type]
            assert picture.tobytes() == group.images[0].tobytes()  # type: ignore[union-attr]


def test_rows_are_written_once(tmp_path: Path) -> None:
    """A second reading leaves the files as they are; another number of rows has a folder of its own."""
    assert len(StandIn("rm_bench", of="rm_bench", items=24).items) == 24
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(StandIn("rm_bench", of="rm_bench", items=24).items) == 24
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files
    assert len(StandIn("rm_bench", of="rm_bench", items=30).items) == 30
    assert len(list((tmp_path / "stand_ins").iterdir())) == 2


def test_benchmark_without_a_known_layout_is_refused() -> None:
    """The message lists the layouts."""
    with pytest.raises(RecipeError, match="rm_bench"):
        StandIn("judgebench", of="judgebench")
