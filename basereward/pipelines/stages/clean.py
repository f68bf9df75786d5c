"""The stage that cleans training rows by models that were not trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Interval

from basereward.data.conversion import RowWriter
from basereward.data.schema.group import Split
from basereward.data.sources import Source
from basereward.errors import DataError, RecipeError, unknown
from basereward.pipelines.cleaning.fold_files import HELD_OUT, ROWS, FoldFiles
from basereward.pipelines.cleaning.rounds import Cleaning, settings_of
from basereward.pipelines.stages.contracts import PREVIEWED, StageResult, write_rows
from basereward.pipelines.stages.inputs import source_files
from basereward.recipe import Recipe, make, recipe_sha256
from basereward.recipe.text import build_recipe


class Clean:
    """Finds wrong labels in the training rows of sources, and drops or flips them.

    The rows are cut into folds by their prompts. A model is trained on all folds but one and scores that one, so that
    no model scores rows that it was trained on. A preference whose margin reaches a threshold is an error. Then models
    are trained on the cleaned rows, and all rows as given are scored again, for as long as the models rank held-out
    rows better: the val rows of the sources, which are never changed. The test rows are not read. If no cleaning helps,
    the result is the rows as given.

    Outputs: `rows`, a folder with a file `NAME.jsonl` of each source; `decisions`, a file with the margin of every
    preference and what was done with it; `held_out`, a folder with the val rows as `NAME.jsonl`.

    Args:
        recipe: the keys that the models change in the recipe of the experiment and its profile.
        sources: names of the sources of the recipe that are cleaned; null: all.
        folds: the number of parts; as many models are trained in each round. With 1, a model scores the rows that it
            was trained on.
        models: the number of models that are trained without each fold, with other seeds; the means of their scores
            decide. More models find more of the wrong labels, and take as many times the time.
        rounds: the most cleanings.
        drop: the margin against a preference from which it is dropped, in units of the scores; null: the threshold of
            confident learning, for each source.
        flip: the margin against a preference from which an error is flipped (winner and loser change places) and not
            dropped; 0: all errors; null: none.
        gain: by how much the accuracy on held-out rows, 0 to 1, must rise for a cleaning to be kept; below 0: by how
            much it may fall, for held-out rows that are too few to show a small gain.
        seed: of the assignment of prompts to folds.
    """

    outputs: ClassVar[tuple[str, ...]] = ("rows", "decisions", "held_out")
    uncounted: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        recipe: dict[str, Any],
        sources: list[str] | None = None,
        folds: Annotated[int, Interval(ge=1, le=20)] = 2,
        models: Annotated[int, Interval(ge=1, le=20)] = 1,
        rounds: Annotated[int, Interval(ge=1, le=10)] = 2,
        drop: Annotated[float, Ge(0)] | None = None,
        flip: Annotated[float, Ge(0)] | None = None,
        gain: Annotated[float, Interval(gt=-1, lt=1)] = 0.0,
        seed: int = 0,
    ) -> None:
        self.recipe: Recipe = build_recipe(recipe)
        self.sources = list(self.recipe.data.sources) if sources is None else sources
        self.folds = folds
        self.models = models
        self.rounds = rounds
        self.drop = drop
        self.flip = flip
        self.gain = gain
        self.seed = seed
        for name in self.sources:
            if name not in self.recipe.data.sources:
                raise RecipeError(unknown("source of the recipe", name, self.recipe.data.sources))

    def definitions(self) -> Mapping[str, Any]:
        """As `Stage.definitions`: what the recipe of the models is."""
        return {"recipe": recipe_sha256(self.recipe)}

    def inputs(self) -> Sequence[Path]:
        """As `Stage.inputs`: those of all sources, since the models are trained on the others too."""
        found: list[Path] = []
        for node in self.recipe.data.sources.values():
            found += source_files(node)
        return found

    def preview(self, folder: Path) -> Mapping[str, str]:
        """As `Stage.preview`: the first rows of each source, as they are."""
        places: dict[str, tuple[Path, Split]] = {
            "rows": (folder / ROWS, "train"),
            "held_out": (folder / HELD_OUT, "val"),
        }
        for name in self.sources:
            source: Source = make(self.recipe.data.sources[name], "sources", name)
            for place, split in places.values():
                place.mkdir(exist_ok=True)
                writer = RowWriter(place, folder / ROWS / "images")
                rows = [writer.row(group) for group in source.groups(split)[:PREVIEWED]]
                if not rows:
                    raise DataError(
                        f"source '{name}' has no rows in its {split} split; cleaning needs training rows, and held-out "
                        "rows to decide when it stops. Set its `val`, or leave it out of `sources`"
                    )
                write_rows(place / f"{name}.jsonl", rows)
        decisions = write_rows(folder / "decisions.jsonl", [])
        return {"rows": str(folder / ROWS), "decisions": decisions, "held_out": str(folder / HELD_OUT)}

    def run(self, folder: Path) -> StageResult:
        """As `Stage.run`; models that are trained and files that are scored are kept."""
        nodes = {name: self.recipe.data.sources[name] for name in self.sources}
        files = FoldFiles(folder, nodes, self.folds, self.seed)
        counts = files.write()
        # The folder of a stage's files is in that of its run.
        cleaning = Cleaning(
            recipe=self.recipe,
            files=files,
            models=self.models,
            rounds=self.rounds,
            drop=self.drop,
            flip=self.flip,
            gain=self.gain,
            parent=folder.parent.name,
        )
        rounds, best = cleaning.run()
        decisions = folder / "decisions.jsonl"
        cleaning.write_decisions(decisions, rounds, best)
        kept = cleaning.write_result(best)
        outputs = {"rows": str(folder / ROWS), "decisions": str(decisions), "held_out": str(folder / HELD_OUT)}
        metrics = {
            "clean/rows": float(sum(kept.values())),
            "clean/round": float(best.cleaned),
            "clean/dropped": float(best.dropped),
            "clean/flipped": float(best.flipped),
            "clean/held_out": best.held_out,
            "clean/held_out_before": rounds[0].held_out,
        }
        facts = {"sources": counts, "kept": kept, "round": best.cleaned, "rounds": [settings_of(one) for one in rounds]}
        return StageResult(outputs, metrics, facts)
