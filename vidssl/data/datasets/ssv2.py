"""Something-Something V2 (Goyal, Ebrahimi Kahou, Michalski, Materzynska et al., ICCV 2017; V2 of 2018): 174 classes.

The tables are read under their first names and under those of today's download:

    something-something-v2-labels.json      labels.json      {"Holding something": "16"}: a class and its number
    something-something-v2-train.json       train.json       [{"id": "78687", "template": "Holding [something]", ...}]
    something-something-v2-validation.json  validation.json  the same
    something-something-v2-test.json        test.json        [{"id": "1420"}]: no labels

A class is a template without its square brackets, and has the number that the labels table gives it. A video is the
file ID of any video suffix (`.webm` as they come, often `.mp4`). The validation table is our "test", as everywhere:
videos that the test table alone names are counted and left alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..sources import Listing, SourceFile
from .annotated import Annotations, Origin, list_annotated, read_json

_OURS = {"train": "train", "validation": "test"}
_BRACKETS = str.maketrans("", "", "[]")
_ADVICE = "Unpack the official labels of Something-Something V2 again."


def list_videos(source: Path, without: Path | None = None) -> Listing:
    """Reads a folder with videos of Something-Something V2 and its tables. See `list_annotated`."""
    return list_annotated(source, without, ORIGIN, read)


def read(tables: dict[str, SourceFile]) -> Annotations:
    """Reads the tables "labels", "train", "validation" and "test" (which may be missing). Raises DataError."""
    made = Annotations(_classes(tables["labels"]))
    known = set(made.classes)
    for role, split in _OURS.items():
        table = str(tables[role])
        for number, row in enumerate(read_json(tables[role], list, _ADVICE), 1):
            template = row.get("template") if isinstance(row, dict) else None
            label = template.translate(_BRACKETS) if isinstance(template, str) else None
            if label not in known:
                raise DataError(
                    f"row {number} of {table} has the template {template!r}, which is no class of "
                    f"{tables['labels'].name}. {_ADVICE}"
                )
            made.add(_id(row), label, split, f"row {number} of {table}")
    if "test" in tables:
        table = tables["test"].name
        for row in read_json(tables["test"], list, _ADVICE):
            name = _id(row) if isinstance(row, dict) else ""
            if name not in made.videos:
                made.left_out[name] = table
    return made


def _id(row: dict[str, Any]) -> str:
    return str(row.get("id", ""))


def _classes(table: SourceFile) -> list[str]:
    """Classes in order of their numbers."""
    content: dict[str, Any] = read_json(table, dict, _ADVICE)
    try:
        numbers = {int(number): name for name, number in content.items()}
    except (TypeError, ValueError):
        raise DataError(f"{table} is no table of classes and their numbers. {_ADVICE}") from None
    if not numbers or sorted(numbers) != list(range(len(content))):
        raise DataError(
            f"{table} has {len(content)} classes, whose numbers are not 0 to {len(content) - 1}, each once. {_ADVICE}"
        )
    return [numbers[number] for number in range(len(numbers))]


ORIGIN = Origin(
    "Something-Something V2 (something-something-v2-labels.json, -train.json and -validation.json, or labels.json, "
    "train.json and validation.json)",
    re.compile(r"(?:something-something-v2-)?(labels|train|validation|test)\.json"),
    lambda match: match[1],
    ("labels", "train", "validation"),
)
