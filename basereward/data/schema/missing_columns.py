"""Rejections of rows without a prompt or a response. Their messages propose the column that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from basereward.data.schema.column_mapping import columns_text
from basereward.data.schema.columns import like_prompt
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError, nearest

# Limits of a message: the columns that it lists, and the characters of a name. In a CSV file without a header, names
# are the texts of the first row.
MAX_LISTED = 30
MAX_NAME = 60
# Names of columns that are kept while a mapped one is missing.
MAX_COLUMNS = 100


def columns_found(columns: Iterable[str]) -> str:
    """List the columns of a row as a sentence.

    >>> columns_found(["question", "answer"])
    'Columns found: question, answer.'
    """
    names = list(columns)
    listed = ", ".join(str(name)[:MAX_NAME] for name in names[:MAX_LISTED]) or "none"
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"Columns found: {listed}{more}."


def no_prompt(row: Mapping[str, Any], *, columns: Mapping[str, str]) -> RowRejected:
    """Make the rejection of a row without a prompt.

    Args:
        row: the cells by column.
        columns: our column name -> the name in the data.

    >>> print(no_prompt({"question": "2 + 2?", "chosen": "4", "rejected": "5"}, columns={}))
    there is no prompt: no column 'prompt', and no turn before the responses. 'question' looks like it: columns: ...
    """
    own = columns.get("prompt", "prompt")
    others = [name for name in row if name != own and name not in columns.values()]
    close = like_prompt(others)
    hint = ""
    if close:
        hint = f"'{close[:MAX_NAME]}' looks like it: {columns_text({'prompt': close})}. "
    elif all(isinstance(row.get(name), str) for name in ("chosen", "rejected")):
        hint = "If both responses begin with the prompt, split it off, as TRL's extract_prompt does. "
    detail = f"there is no prompt: no column '{own}', and no turn before the responses. {hint}"
    return RowRejected("no_prompt", f"{detail}{columns_found(row)}")


def missing_response(missing: Sequence[str], *, row: Mapping[str, Any], columns: Mapping[str, str]) -> RowRejected:
    """Make the rejection of a row without a response.

    Args:
        missing: our names of the missing columns.
        row: the cells by column.
        columns: our column name -> the name in the data.

    >>> print(missing_response(["chosen"], row={"prompt": "Q", "chosn": "A", "rejected": "B"}, columns={}))
    missing: 'chosen'. 'chosn' looks like it: columns: {chosen: chosn}. Columns found: prompt, chosn, rejected.
    """
    names = {ours: columns.get(ours, ours) for ours in missing}
    for name in names.values():
        if name in row:
            return RowRejected("null_response", f"'{name}' is null; a response must be a text")
    others = [str(name) for name in row]
    sentences = []
    for ours, name in names.items():
        close = nearest(name, others)
        if close:
            sentences.append(f"'{close[:MAX_NAME]}' looks like it: {columns_text({ours: close})}")
    general_form = ", or `responses`" if len(names) == 2 else ""
    listed = " and ".join(f"'{name}'" for name in names.values())
    return RowRejected(
        "missing_column", ". ".join([f"missing: {listed}{general_form}", *sentences, columns_found(row)])
    )


class MappedColumns:
    """The columns that `columns` names and no row has had so far.

    Args:
        names: the columns that `columns` names, as in the data.

    >>> mapped = MappedColumns({"pics"})
    >>> mapped.see({"prompt": "2 + 2?", "responses": ["4"]})
    >>> mapped.check("pairs.jsonl")
    Traceback (most recent call last):
    basereward.errors.DataError: pairs.jsonl: no row has the column pics, which `columns` names. Columns found: ...
    """

    def __init__(self, names: set[str]) -> None:
        self.unseen = names
        self.found: dict[str, None] = {}

    def see(self, row: Mapping[str, Any]) -> None:
        """Note the columns of a row."""
        self.unseen.difference_update(row)
        if self.unseen and len(self.found) < MAX_COLUMNS:
            self.found.update(dict.fromkeys(map(str, row)))

    def check(self, label: str) -> None:
        """Check that every column has been seen.

        Raises:
            DataError: a column is in no row; the message lists those that are.
        """
        if self.unseen:
            noun = "column" if len(self.unseen) == 1 else "columns"
            fault = f"{label}: no row has the {noun} {' and '.join(sorted(self.unseen))}, which `columns` names"
            raise DataError(f"{fault}. {columns_found(self.found)}")
