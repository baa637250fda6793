"""The folder of a study: settings, one shard a finished image, locks, failures, the final table.

A shard is a small Parquet file that appears at once and complete, by a rename; an image is
finished if and only if its shard exists.  That alone keeps the table whole: whatever is killed
or runs twice, each image has one shard or none.  Locks only save double work.  Whoever works on
an image holds a lock of the operating system on ``locks/<image>.lock`` (filelock), which ends
with its process, even by SIGKILL, so that no stale claims are left to be recovered.  On network
file systems without such locks, two machines may compute the same image; the second shard then
replaces the first.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from moxi_lite.files import write_atomically
from moxi_lite.study.images import StudyImage

SCHEMA = pa.schema(
    [
        ("image", pa.dictionary(pa.int32(), pa.string())),
        ("target", pa.int16()),
        ("model", pa.dictionary(pa.int8(), pa.string())),
        ("method", pa.dictionary(pa.int8(), pa.string())),
        ("mode", pa.dictionary(pa.int8(), pa.string())),
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
_BYTES_PER_ROW = 16  # what zstd leaves is less
_TRACEBACK_CHARACTERS = 4000
_FORGOTTEN_SECONDS = 3600


class StudyFolderError(OSError):
    """Raised when the folder of a study cannot be written to; not the fault of an image."""


@dataclass(frozen=True)
class Shard:
    """What is stored about one finished image.

    Attributes
    ----------
    table : pyarrow.Table
        With `SCHEMA`; empty if the image was skipped.
    facts : dict
        Image, origin, label, SHA-256, predicted class, status, seconds, environment, ...
    """

    table: pa.Table
    facts: dict[str, Any]


@dataclass(frozen=True)
class StudyFolder:
    """The files of a study.

    Attributes
    ----------
    root : Path
        The folder, absolute.
    """

    root: Path

    def prepare(self) -> None:
        """Make the folder and try to write into it; raises StudyFolderError."""
        with _explained(self.root):
            for part in ("shards", "locks", "failures"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "shards") as probe:
                probe.write(b"moxi-lite")

    def check_space(self, rows: int) -> None:
        """Raise StudyFolderError if the folder is not ours to write, or the disk lacks the room.

        Room is needed for so many rows and their copy.

        The folder need not exist yet.
        """
        needed = 2 * _BYTES_PER_ROW * rows + 2**20
        with _explained(self.root):
            there = next(path for path in (self.root, *self.root.parents) if path.exists())
            if not os.access(there, os.W_OK):
                raise PermissionError(errno.EACCES, f"no permission to write into {there}")
            free = shutil.disk_usage(there).free
            if free < needed:
                raise OSError(
                    errno.ENOSPC,
                    f"the study needs up to {needed / 2**20:.0f} MiB, {free / 2**20:.0f} are free",
                )

    def adopt_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings of a new study, or compare them with those of the one in there.

        Raises
        ------
        ValueError
            If the folder belongs to a study with other settings; the message names them.
        """
        path = self.root / "settings.json"
        with _explained(self.root), self.lock():
            if path.exists():
                self.check_settings(settings)
            else:
                write_atomically(path, json.dumps(dict(settings), indent=1).encode())

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Compare settings with those of the study in there, if there is one; writes nothing.

        Raises
        ------
        ValueError
            If the folder belongs to a study with other settings; the message names them.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        path = self.root / "settings.json"
        with _explained(self.root):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return
        try:
            stored = json.loads(content)
            if not isinstance(stored, dict):
                raise ValueError(f"expected an object, found a {type(stored).__name__}")
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): choose another folder.") from None
        differing = [
            f"{key} is {json.dumps(stored.get(key))} there and {json.dumps(wanted.get(key))} now"
            for key in sorted(stored.keys() | wanted.keys())
            if stored.get(key) != wanted.get(key)
        ]
        if differing:
            raise ValueError(
                f"{self.root} holds a study with other settings: {'; '.join(differing)}. Choose "
                "another folder, or repeat those settings to go on with that study."
            )

    def lock(self) -> FileLock:
        """Lock of what belongs to the whole study; waits."""
        return FileLock(self.root / "locks" / "study.lock")

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Claim one image while the block runs; False if another process works on it."""
        path = self.root / "locks" / f"image-{name}.lock"
        lock = FileLock(path)
        with _explained(self.root):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                mine = False
            else:
                mine = True
        try:
            yield mine
        finally:
            if mine:
                # Before the release: whoever then opens the path makes a new file, and finds the
                # shard; filelock refuses a lock on a file that has lost its name.
                if self.is_finished(name):
                    with suppress(OSError):  # Windows keeps open files
                        path.unlink()
                lock.release()

    def shard_path(self, name: str) -> Path:
        """Path of an image's shard, which may not exist."""
        return self.root / "shards" / f"{name}.parquet"

    def is_finished(self, name: str) -> bool:
        """Whether the image has its shard."""
        return self.shard_path(name).exists()

    def finished(self) -> list[str]:
        """Names of all images that have their shard, sorted."""
        return sorted(path.stem for path in self.root.glob("shards/*.parquet"))

    def write_shard(self, name: str, shard: Shard) -> None:
        """Store a finished image and forget its earlier failure."""
        with _explained(self.root):
            write_atomically(self.shard_path(name), parquet_bytes(shard.table, shard.facts))
            self._failure_path(name).unlink(missing_ok=True)

    def read_shard(self, name: str) -> Shard:
        """Read what `write_shard` stored; raises ValueError if the file is damaged."""
        path = self.shard_path(name)
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

    def write_failure(self, image: StudyImage, error: Exception) -> str:
        """Store why an image failed; returns the reason in one line."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        record = {
            "image": image.name,
            "origin": image.origin,
            "label": image.label,
            "reason": reason,
            "traceback": "".join(traceback.format_exception(error))[-_TRACEBACK_CHARACTERS:],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": now(),
        }
        with _explained(self.root):
            write_atomically(self._failure_path(image.name), json.dumps(record, indent=1).encode())
        return reason

    def forget_failures(self, images: Iterable[StudyImage]) -> None:
        """Delete the records of images that are about to be tried again.

        A file that was mended has another name in the study, but the same path.
        """
        names = {image.name for image in images}
        paths = {image.origin for image in images if isinstance(image.source, str)}
        with _explained(self.root):
            for name in self.failures():
                path = self._failure_path(name)
                try:
                    origin = json.loads(path.read_text(encoding="utf-8"))["origin"]
                    outdated = name in names or origin in paths
                except (ValueError, KeyError, TypeError):  # damaged, and of no use
                    outdated = True
                if outdated:
                    path.unlink(missing_ok=True)

    def failures(self) -> list[str]:
        """Names of all images whose last attempt failed, sorted."""
        return sorted(path.stem for path in self.root.glob("failures/*.json"))

    def _failure_path(self, name: str) -> Path:
        return self.root / "failures" / f"{name}.json"

    def write_table(self, model: str, table: pa.Table, provenance: dict[str, Any]) -> Path:
        """Write ``<model>.parquet`` and, with the list of images on top, ``<model>.json``."""
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", model)
        path = self.root / f"{stem}.parquet"
        brief = {key: value for key, value in provenance.items() if key != "images"}
        with _explained(self.root):
            write_atomically(path, parquet_bytes(table, brief))
            text = json.dumps(provenance, indent=1)
            write_atomically(self.root / f"{stem}.json", text.encode())
            self._tidy()
        return path

    def _tidy(self) -> None:
        """Delete what killed processes left half-written an hour ago or more."""
        for path in self.root.glob("shards/.*.parquet.*"):
            try:
                if time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # its writer has just finished it
                continue


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


def provenance_of(
    settings: Mapping[str, Any], shards: list[Shard], failures: list[str]
) -> dict[str, Any]:
    """Summarise the facts of all shards; the same whenever and by whomever it is done."""
    images = [
        {key: value for key, value in shard.facts.items() if key != "environment"}
        for shard in shards
    ]
    environments: dict[str, dict[str, Any]] = {}
    for shard in shards:
        facts = shard.facts["environment"]
        entry = environments.setdefault(json.dumps(facts), {**facts, "images": 0})
        entry["images"] += 1
    lines = "".join(f"{image['image']} {image['sha256']} {image['label']}\n" for image in images)
    statuses = [image["status"] for image in images]
    return {
        "format": "moxi-lite study",
        "settings": dict(settings),
        "n_studied": statuses.count("studied"),
        "n_misclassified": statuses.count("misclassified"),
        "failed": failures,
        "image_list_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "seconds": round(sum(image["seconds"] for image in images), 3),
        "n_evaluations": sum(image["n_evaluations"] for image in images),
        "finished": max((image["finished"] for image in images), default=None),
        "environments": list(environments.values()),
        "images": images,
    }


def now() -> str:
    """Coordinated universal time to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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
