"""Parquet files, read by pyarrow."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunewise.data.files import MAX_BYTES, unchanged
from tunewise.data.loaders.arrow import table_of_arrow
from tunewise.data.table import Table
from tunewise.errors import DataError


def load(source: Any, *, encoding: str, delimiter: str | None, role: str) -> Table:
    """The rows of a Parquet file.

    Raises:
        DataError: it is no Parquet file, is damaged, or would unpack to more than 4 GB.
    """
    path = Path(source)
    with unchanged(path, role=role):
        try:
            table = _read(path)
        except (pa.ArrowException, OSError) as error:
            found = str(error).splitlines()[0]
            raise DataError(f"{path.name}: not a Parquet file, or a damaged one ({found}). Write it again.") from error
    return table_of_arrow(table, source=path.name, notes=())


def _read(path: Path) -> pa.Table:
    # a ParquetFile, not read_table, which would add columns for folders named key=value
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size > MAX_BYTES:
            raise DataError(f"{path.name}: unpacks to {size:,} bytes; at most {MAX_BYTES:,} are read.")
        table = file.read()
    table.validate(full=True)
    return table
