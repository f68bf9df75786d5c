"""A stand-in of a published benchmark: made rows in its layout, for models of random weights and without a network."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated as Limited
from typing import Any

from annotated_types import Interval

from basereward.data.images.image_store import ImageStore
from basereward.data.images.open_images import open_image
from basereward.errors import DataError, RecipeError, unknown
from basereward.evaluation.benchmarks.annotated import Annotated
from basereward.evaluation.benchmarks.stand_in_names import FOLDER, stand_in_name
from basereward.evaluation.benchmarks.stand_in_rows import LAYOUTS, embedded_groups, made_items
from basereward.evaluation.items import Item
from basereward.io.files import cache_folder
from basereward.io.outputs import replace_folder
from basereward.recipe.fragment import load_fragment

ROWS = "rows.jsonl"
# Frames of a made film.
FRAMES = 2


class StandIn(Annotated):
    """Made rows in the layout of a published benchmark, read and counted by its protocol.

    The rows ask about scanned digits and about numbers. They show that the path from a recipe to a table works. Their
    numbers say nothing about the published benchmark, so the name begins with `stand_in_`, and no published value is
    compared with them. The rows and pictures are written once into the cache.

    Args:
        name: of the file; that of the benchmark begins with `stand_in_`.
        of: the published benchmark.
        items: the number of rows.
        version: of the rows; a change that moves a number raises it.

    Raises:
        RecipeError: no layout is known for the benchmark.

    >>> benchmark = StandIn("rm_bench", of="rm_bench", items=10)
    >>> benchmark.name, list(benchmark.variants), benchmark.expected_items
    ('stand_in_rm_bench', ['domain_mean', 'row_pooled'], None)
    """

    def __init__(
        self, name: str, *, of: str, items: Limited[int, Interval(ge=24, le=250)] = 96, version: str = "1"
    ) -> None:
        _, node = load_fragment(of, "benchmarks")
        protocol = node["protocol"]
        if protocol["_target_"] not in LAYOUTS:
            raise RecipeError(f"of: {unknown('layout', str(protocol['_target_']), LAYOUTS)}")
        self._layout = LAYOUTS[protocol["_target_"]]
        self._made = made_items(self._layout, items)
        text = "".join(f"{json.dumps(self._layout.row(item))}\n" for item in self._made)
        self._text = text
        # By their content, so that a later version of the rows gets a folder of its own.
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._folder = cache_folder() / FOLDER / f"{of}-{digest}"
        place: dict[str, Any] = {"path": str(self._folder), "files": [ROWS], "split": "train"}
        super().__init__(stand_in_name(name), protocol=protocol, version=version, **place)
        # The folder need not be there yet, by which `Annotated` knows that images start from it.
        self.store = ImageStore(self._folder, closed=True)

    @cached_property
    def items(self) -> Sequence[Item]:
        """All items, in the order of the rows. The first access writes the rows, unless they are in the cache.

        Raises:
            DataError: they cannot be written.
        """
        if not (self._folder / ROWS).is_file():
            self._write()
        return super().items

    def _write(self) -> None:
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{self._folder.name}-", dir=self._folder.parent))
            try:
                self._write_rows(partial)
                replace_folder(partial, self._folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise DataError(
                f"the rows of '{self.name}' cannot be written to '{self._folder}': {error.strerror or error}. Set "
                "BASEREWARD_CACHE to a folder with room"
            ) from error

    def _write_rows(self, folder: Path) -> None:
        groups = embedded_groups(self._layout)
        for picture, number in {item.picture: item.prompt_number for item in self._made if item.picture}.items():
            path = folder / picture
            # A path without a suffix is a film: a folder of frames.
            files = [path] if path.suffix else [path / f"{frame}.png" for frame in range(FRAMES)]
            for file in files:
                file.parent.mkdir(parents=True, exist_ok=True)
                open_image(groups[number].images[0]).save(file)
        (folder / ROWS).write_text(self._text, encoding="utf-8")
