"""Reads a row of any known format as a group, and reports which columns were read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters import RowAdapter, check_columns
from basereward.data.formats import Format
from basereward.data.formats.one_response import ADVICE
from basereward.data.formats.recognise import recognise, with_structure
from basereward.data.formats.trl import IMPLICIT_TEXTS
from basereward.data.schema.annotations import COLUMNS as ANNOTATIONS
from basereward.data.schema.column_mapping import ColumnNames
from basereward.data.schema.columns import (
    ALIAS_NAMES,
    ALIASES,
    ColumnsRead,
    WatchedRow,
    check_media,
    check_prompt_columns,
    split_mapping,
)
from basereward.data.schema.group import Group
from basereward.data.schema.messages import is_empty
from basereward.data.schema.rejections import RowRejected, located
from basereward.data.schema.responses.read_responses import IMAGE_COLUMNS
from basereward.data.schema.rows import RowFormat

# If `columns` maps one of these, the row is read by that mapping alone.
MAIN_COLUMNS = frozenset({"prompt", "chosen", "rejected", "responses", "ranking", "preferences", *IMAGE_COLUMNS})
# Columns that a row of any format may have, and that mean the same in all of them.
COMMON = ("id", "system", "images", "image", "videos", "video", "margin", *ANNOTATIONS, *sorted(ALIAS_NAMES))


class RejectedByAdapter(RowRejected):
    """An adapter rejected a well-formed row."""


class RowReader:
    """Converts rows of a table to groups.

    Args:
        row_format: reads rows with our columns.
        adapter: converts every row to our columns; None: each row is converted by its own format.
        columns: for an adapter, the column that it reads -> the name in the table; a name -> null leaves that column
            unread.

    >>> reader = RowReader(RowFormat(of_table=True))
    >>> row = {"conversations_a": [{"from": "human", "value": "2 + 2?"}, {"from": "bot", "value": "4"}]}
    >>> row["conversations_b"] = [{"from": "human", "value": "2 + 2?"}, {"from": "bot", "value": "5"}]
    >>> reader.group(row, source="sums", row_id="0", where="sums.jsonl:1").responses
    ('4', '5')
    >>> list(reader.report.formats)
    ['InternLM-XComposer2.5-Reward (conversations_a, conversations_b)']
    """

    def __init__(
        self,
        row_format: RowFormat,
        *,
        adapter: RowAdapter | None = None,
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        self.row_format = row_format
        self.adapter = adapter
        self.columns, ignored = split_mapping(columns)
        self.ignored = row_format.ignored | ignored
        # Without an adapter, the columns of a format are renamed by the mapping of the row format.
        self._renamed = self.columns if adapter is not None else row_format.columns
        self._recognises = adapter is None and MAIN_COLUMNS.isdisjoint(row_format.columns)
        self._converted_format = row_format.without_mapping()
        # Parts of a prompt that few formats have; a mapping adds them to any format.
        self._mapped_prompt = [name for name in ("input", "history") if name in row_format.columns]
        self._report = ColumnsRead()
        self._first_format: Format | None = None

    @property
    def named_columns(self) -> set[str]:
        """The columns that the mappings name, as in the data."""
        return set((self.row_format.columns | self.columns).values()) | self.ignored

    @property
    def report(self) -> ColumnsRead:
        """Which columns have been read so far, and which have not."""
        report, own = self._report, self.row_format.report
        if self.adapter is None:
            report = ColumnsRead(
                read=own.read | report.read,
                skipped=own.skipped | report.skipped,
                notes=own.notes | report.notes,
                formats=dict(report.formats),
            )
        report.rendered |= own.rendered | self._converted_format.report.rendered
        report.notes |= self._converted_format.report.notes
        return report

    def group(self, row: Mapping[str, Any], *, source: str, row_id: str, where: str) -> Group:
        """Convert a row to a group; see `RowFormat.group`.

        Raises:
            RowRejected: the row is malformed, or its format gives no preference.
        """
        if self.adapter is not None:
            return self._adapted(row, source=source, row_id=row_id, where=where)
        if self._recognises:
            structured = with_structure(row) if self.row_format.of_table else row
            form = self._format_of(structured)
            if form is not None:
                self._report.formats[form.title] = None
                if form.convert is not None:
                    return self._converted(form, structured, source=source, row_id=row_id, where=where)
        return self.row_format.group(row, source=source, row_id=row_id, where=where)

    def _format_of(self, row: Mapping[str, Any]) -> Format | None:
        """Return the format of a row; None if it has no known one."""
        form = recognise(self._with_our_names(row))
        self._first_format = self._first_format or form
        # In a file with prompts, a row without one is faulty, even if its responses begin with the same words.
        return None if form is IMPLICIT_TEXTS and self._first_format is not form else form

    def _converted(self, form: Format, row: Mapping[str, Any], *, source: str, row_id: str, where: str) -> Group:
        """Read a row of a format whose columns are not ours."""
        assert form.convert is not None
        accessed: dict[str, None] = {}
        watched = WatchedRow(self._with_our_names(row), accessed)
        with located(where):
            converted = dict(form.convert(watched))
            self._report.skipped.update(dict.fromkeys(form.unread_keys(watched)))
            for name in (*COMMON, *self._mapped_prompt):
                if name in watched and name not in converted:
                    converted[name] = watched[name]
            unread = self._record(row, accessed)
            check_media(unread, has_images=_has_images(converted))
        names = ColumnNames({**form.names, **self._renamed}, mapped=self._renamed, present=row.keys())
        try:
            group = self._converted_format.group(converted, source=source, row_id=row_id, where=where, names=names)
        except RowRejected as rejection:
            if rejection.reason != "single_response":
                raise
            raise RowRejected(rejection.reason, f"{where}: {form.title}. {ADVICE}") from None
        with located(where):
            check_prompt_columns(unread, prompt=_prompt_text(group))
        return group

    def _adapted(self, row: Mapping[str, Any], *, source: str, row_id: str, where: str) -> Group:
        """Read a row with the adapter."""
        assert self.adapter is not None
        renamed = self._with_our_names(row)
        accessed: dict[str, None] = {}
        with located(where):
            check_columns(self.adapter, renamed)
        try:
            adapted = self.adapter(WatchedRow(renamed, accessed))
        except RowRejected as rejection:
            raise RejectedByAdapter(rejection.reason, f"{where}: {rejection.detail}") from None
        with located(where):
            unread = self._record(row, accessed)
            check_media(unread, has_images=_has_images(adapted))
        # The adapter makes the columns, so none of them can be left unread: the row has no names for them.
        group = self.row_format.group(adapted, source=source, row_id=row_id, where=where, names=ColumnNames())
        with located(where):
            check_prompt_columns(unread, prompt=_prompt_text(group), can_map=False)
        return group

    def _with_our_names(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Rename the columns that are mapped, and drop those that are left unread."""
        renamed = {name: value for name, value in row.items() if name not in self.ignored}
        renamed |= {ours: row[own] for ours, own in self._renamed.items() if own in row}
        return renamed

    def _record(self, row: Mapping[str, Any], accessed: Mapping[str, None]) -> dict[str, Any]:
        """Record the columns that were accessed; return the cells that were not."""
        # "rows" is not a column of the table: `Gathered` adds it.
        names_in_data = {name: self._renamed.get(name, name) for name in accessed if name != "rows"}
        self._report.read.update({name: in_data for name, in_data in names_in_data.items() if in_data in row})
        # `Gathered` adds mapped columns under the adapter's names, too. Such a copy has been read if its column has.
        copies = {name for name, in_data in names_in_data.items() if row.get(name) is row.get(in_data)}
        cells = {name: value for name, value in row.items() if name != "rows"}
        return self._report.record_skipped(cells, read={*names_in_data.values(), *copies, *self.ignored})


def _has_images(cells: Mapping[str, Any]) -> bool:
    return not all(is_empty(cells.get(name)) for name in ("images", "image", *ALIASES["images"]))


def _prompt_text(group: Group) -> str:
    """Return all texts of a prompt."""
    texts: list[str] = []
    for turn in group.prompt:
        texts += [part.text for part in turn.parts if part.text is not None]
    return "\n".join(texts)
