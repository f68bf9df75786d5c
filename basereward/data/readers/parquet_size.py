"""How large a Parquet file becomes, known before the `datasets` library unpacks it into its cache."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from basereward.errors import DataError
from basereward.io.limits import check_regular_file
from basereward.io.unpacking import MAX_GROWTH, growth_limit

AT_ONCE = 64  # rows that are counted together: what a value repeats is in memory so many times


def check_parquet(path: Path) -> None:
    """Passes a file whose content is not far larger than itself, by compression or by values that it stores once.

    Raises:
        DataError: it becomes larger than `io.unpacking.growth_limit` allows, or cannot be read.
    """
    status = path.stat() if check_regular_file(path) else None
    if status is not None:
        _check(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _check(path: Path, size: int, time_ns: int) -> None:
    import pyarrow
    from pyarrow import parquet

    limit = growth_limit(size)
    try:
        file = parquet.ParquetFile(path)
        if not file.metadata.num_rows:  # which the `datasets` library takes for a fault of its own
            raise DataError(f"'{path}' holds no rows; take it out of the data set, or give another file")
        stored, repeated = _stored(file.metadata)
        total = stored
        # A value in a dictionary may be repeated without end: such columns are counted, a few rows at a time.
        batches = file.iter_batches(batch_size=AT_ONCE, columns=repeated) if repeated and stored <= limit else ()
        for batch in batches:
            total += batch.nbytes
            if total > limit:
                break
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot load the data set {path}: {error}") from error
    if total > limit:
        raise DataError(
            f"'{path}' has {size:,} bytes and becomes larger than {limit:,}, more than {MAX_GROWTH} times that; "
            "if that is right, give the rows as JSON Lines"
        )


def _stored(metadata: Any) -> tuple[int, list[str]]:
    """Bytes of all columns before compression, and the columns whose dictionaries may stand for far more."""
    stored, repeated = 0, set[str]()
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            stored += chunk.total_uncompressed_size
            if chunk.has_dictionary_page and chunk.num_values * chunk.total_uncompressed_size > growth_limit(0):
                repeated.add(chunk.path_in_schema)
    return stored, sorted(repeated)
