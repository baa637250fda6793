"""The folder of a study: settings, one shard a finished image, failures, the final table.

A shard is a small Parquet file that appears at once and complete, by a rename; an image is
finished if and only if its shard exists, so whatever is killed, each image has one shard or none.
One writer at a time holds the folder's lock, a lock of the operating system (filelock), which ends
with its process, even by SIGKILL.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from moxi_lite.files import write_atomically
from moxi_lite.study.provenance import now, write_json

_NAMES = pa.dictionary(pa.int8(), pa.string())
SCHEMA = pa.schema(
    [
        ("image", pa.dictionary(pa.int32(), pa.string())),
        ("target", pa.int16()),
        ("model", _NAMES),
        ("method", _NAMES),
        ("mode", _NAMES),
        ("step", pa.int16()),
        ("patch", pa.int16()),
        ("correct", pa.bool_()),
        ("probability", pa.float32()),
        ("log_odds", pa.float32()),
        ("exact", pa.bool_()),
        ("evaluations", pa.int32()),
    ]
)
METADATA_KEY = b"moxi_lite"


class StudyFolderError(OSError):
    """Raised when the folder of a study cannot be written to; not the fault of an image."""


@dataclass(frozen=True)
class Shard:
    """What became of one image: rows with `SCHEMA`, none if it was skipped or failed, and facts.

    The facts are image, origin, label, status ("studied", "misclassified" or "failed"), and either
    SHA-256, predicted class, seconds, environment, ... or reason and traceback.
    """

    table: pa.Table
    facts: dict[str, Any]


@dataclass(frozen=True)
class StudyFolder:
    """The files of a study."""

    root: Path  # absolute

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all others out, who are told of it; makes the folder, clears earlier failures."""
        holder = self.root / "holder.json"
        lock = FileLock(self.root / "study.lock")
        with _explained(self.root):
            for part in ("shards", "failures"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                who = dict.fromkeys(("pid", "host", "since"), "unknown")
                with suppress(OSError):  # it may be about to begin, or to end
                    who = json.loads(holder.read_text(encoding="utf-8"))
                raise StudyFolderError(
                    f"{self.root} is in use: process {who['pid']} on {who['host']} has been "
                    f"writing into it since {who['since']}. Wait for it or end it; to share the "
                    "work among machines, pass an executor such as Dask's."
                ) from None
            write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
            for record in self.root.glob("failures/*.json"):
                record.unlink()
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def adopt_settings(self, settings: Mapping[str, Any], *, write: bool = True) -> None:
        """Raise ValueError if the folder belongs to a study with other settings, which are named.

        Those of a new study are stored, if `write`. What is stored besides does not count.
        """
        wanted = json.loads(json.dumps(settings))
        path = self.root / "settings.json"
        with _explained(self.root):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                if write:
                    write_json(path, wanted)
                return
        try:
            stored = dict(json.loads(content))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}): choose another folder.") from None
        differing = [
            f"{key} is {json.dumps(stored.get(key))} there and {json.dumps(value)} now"
            for key, value in sorted(wanted.items())
            if stored.get(key) != value
        ]
        if differing:
            raise ValueError(
                f"{self.root} holds a study with other settings: {'; '.join(differing)}. Choose "
                "another folder, or repeat those settings to go on with that study."
            )

    def finished(self) -> list[str]:
        """Names of all images that have their shard, sorted."""
        return sorted(path.stem for path in self.root.glob("shards/*.parquet"))

    def failures(self) -> list[str]:
        """Names of the images that failed in the last call, sorted."""
        return sorted(path.stem for path in self.root.glob("failures/*.json"))

    def write_shard(self, shard: Shard) -> None:
        """Store a finished image, or why it failed."""
        name = shard.facts["image"]
        with _explained(self.root):
            if shard.facts["status"] == "failed":
                write_json(self.root / "failures" / f"{name}.json", shard.facts)
            else:
                content = parquet_bytes(shard.table, shard.facts)
                write_atomically(self.root / "shards" / f"{name}.parquet", content)

    def read_shard(self, name: str) -> Shard:
        """Read a finished image; raises ValueError if the file is damaged."""
        path = self.root / "shards" / f"{name}.parquet"
        try:
            with pq.ParquetFile(path) as file:
                table = file.read()
            facts = json.loads(table.schema.metadata[METADATA_KEY])
            return Shard(with_evaluations(table).cast(SCHEMA), facts)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            found = " ".join(str(error).split())
            raise ValueError(
                f"{path} is damaged ({found}): delete it and run the study again."
            ) from error

    def write_table(self, model: str, table: pa.Table, provenance: dict[str, Any]) -> Path:
        """Write ``<model>.parquet`` and, with the list of images on top, ``<model>.json``."""
        path = self.root / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', model)}.parquet"
        brief = {key: value for key, value in provenance.items() if key != "images"}
        with _explained(self.root):
            write_atomically(path, parquet_bytes(table, brief))
            write_json(path.with_name(f"{path.stem}.json"), provenance)
        return path


def with_evaluations(table: pa.Table) -> pa.Table:
    """Add the column where it is missing: known of steps that MoXI searched, otherwise null."""
    if "evaluations" in table.column_names:
        return table
    step = table["step"].cast(pa.int32())
    k_twice_n = pc.multiply(step, pc.add(pc.multiply(pc.max(step), 2), 1))
    cumulated = pc.divide(pc.subtract(k_twice_n, pc.multiply(step, step)), 2).cast(pa.int32())
    searched = pc.and_(table["exact"], pc.equal(table["method"].cast(pa.string()), "moxi"))
    known = pc.or_(searched, pc.equal(step, 0))
    return table.append_column(SCHEMA.field("evaluations"), pc.if_else(known, cumulated, None))


def parquet_bytes(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """Encode a table with `SCHEMA` and JSON metadata."""
    encoded = {METADATA_KEY: json.dumps(metadata).encode()}
    buffer = pa.BufferOutputStream()
    floats = [field.name for field in SCHEMA if pa.types.is_floating(field.type)]
    pq.write_table(
        table.replace_schema_metadata(encoded),
        buffer,
        compression="zstd",
        use_dictionary=[field.name for field in SCHEMA if field.name not in floats],
        use_byte_stream_split=floats,
    )
    return buffer.getvalue().to_pybytes()


def concatenate(tables: list[pa.Table]) -> pa.Table:
    """Join tables with `SCHEMA`, which each have their own dictionaries."""
    joined = pa.concat_tables([SCHEMA.empty_table(), *tables])
    return joined.replace_schema_metadata(None).unify_dictionaries().combine_chunks()


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """Say of what the operating system refuses that it concerns the folder of the study."""
    try:
        yield
    except StudyFolderError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StudyFolderError(
            f"cannot write into the study folder {root}: {reason}. What is finished is kept: once "
            "that is mended, run the same study again."
        ) from error
