"""All verdicts as one Parquet file."""

import dataclasses
import io

import pyarrow as pa
import pyarrow.parquet as pq

from achilles_fleet.verdicts import Row

_TYPES = {
    "rules": pa.list_(pa.string()),
    "errors": pa.int64(),
    "warnings": pa.int64(),
    "notes": pa.int64(),
    "waived": pa.int64(),
    "seconds": pa.float64(),
    "attempts": pa.int64(),
}
SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.string())) for field in dataclasses.fields(Row)])


def parquet(rows: list[Row]) -> bytes:
    """The file's bytes."""
    # Names of files need not be Unicode; Parquet's texts are.
    records = [{name: _unicode(value) for name, value in dataclasses.asdict(row).items()} for row in rows]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records, SCHEMA), out)
    return out.getvalue()


def _unicode(value: object) -> object:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
