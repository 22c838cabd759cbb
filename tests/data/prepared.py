"""What the tests of prep share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vidssl.data.prep import prepare
from vidssl.data.prep_summary import PrepSummary
from vidssl.engine.progress import Reporter


def prep(source: Path, store: Path, **options: Any) -> PrepSummary:
    """`prepare` with small pictures, one worker and no output."""
    fixed = {"name": "tried", "short_side": 48, "workers": 1, "progress": Reporter(quiet=True)}
    return prepare(source=source, store_dir=store, **{**fixed, **options})


def hashes(store: Path, below: str = "") -> dict[str, str]:
    """Relative path -> sha256 of every file of a store."""
    files = sorted(path for path in (store / below).rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def manifest(store: Path) -> dict[str, dict[str, Any]]:
    """path -> its row."""
    return {row["path"]: row for row in pq.read_table(store / "manifest.parquet").to_pylist()}
