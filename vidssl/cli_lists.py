"""`vidssl list`: tables of what there is, or JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

list_app = typer.Typer(no_args_is_help=True, help="Show what there is: tasks, backbones, data, runs.")

_HASH_SHOWN = 8  # digits; --json has them all
_UNBOUNDED = 10_000  # characters of a line that no terminal shows
_NAME, _WORD = 14, 12  # characters that a name and a text are broken at, at the least
# Columns of the data table, the first to be left out on a narrow terminal first.
_SPARE = ("splits", "picture", "format", "hours", "classes", "test", "train", "megabytes")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@list_app.command("tasks")
def list_tasks(as_json: Json = False) -> None:
    """Pretext tasks: group (S, T, ST), clips a video, frames needed, labels and chance at each level, paper."""
    from .report.listing import task_rows, task_table

    rows = task_rows()
    if as_json:
        _show(rows, as_json)
    else:
        shown, caption = task_table(rows)
        _show(shown, as_json, caption=caption)


@list_app.command("backbones")
def list_backbones(as_json: Json = False) -> None:
    """Networks and their variants: parameters, cost at 16x112x112, feature width, origin, the paper's count."""
    from .report.listing import backbone_rows, backbone_table

    rows = backbone_rows()
    if as_json:
        _show(rows, as_json)
    else:
        shown, caption = backbone_table(rows)
        _show(shown, as_json, caption=caption)


@list_app.command("data")
def list_data(as_json: Json = False) -> None:
    """Prepared data sets: counts, size, format, and the lists of their subsets by the start of their sha256.

    Those that are not finished or damaged are among them, with their problem.
    """
    from .report.listing import data_rows

    rows = data_rows()
    lists: list[str] = []
    for row in () if as_json else rows:
        made: dict[str, Any] = row.pop("subsets", {})
        hashes = ", ".join(f"{name} {about['sha256'][:_HASH_SHOWN]}" for name, about in made.items())
        lists += [f"subsets of {row['name']}, with the start of their hashes: {hashes}"] if made else []
    counts = ("train", "test", "splits", "videos", "classes", "hours", "megabytes")
    _show(
        rows,
        as_json,
        empty="nothing is prepared yet: `vidssl prep folder --source DIR --name NAME`",
        columns=("name", *counts, "format", "picture", "problem"),
        spare=_SPARE,
        caption="\n".join(lists) or None,
    )


@list_app.command("runs")
def list_runs(as_json: Json = False) -> None:
    """Runs under $VIDSSL_HOME/runs, with their numbers where they are finished."""
    from .report.listing import run_rows

    _show(run_rows(), as_json, empty="no run yet: `vidssl run`")


def _show(
    rows: list[dict[str, Any]],
    as_json: bool,
    empty: str = "nothing",
    columns: tuple[str, ...] = (),
    spare: tuple[str, ...] = (),
    caption: str | None = None,
) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print(empty)
        return
    there = dict.fromkeys(key for row in rows for key in row)
    keys = [key for key in columns or there if key in there]
    console = Console()
    widths: dict[str, int] = {}
    if not console.is_terminal:
        console = Console(width=_UNBOUNDED)
    elif spare:
        widths = _widths({key: [_cell(row.get(key)) for row in rows] for key in keys}, console.width, spare)
        left_out = [key for key in spare if key in keys and key not in widths]
        keys = list(widths)
        if left_out:
            note = f"no room for {', '.join(left_out)}: a wider terminal or --json shows all"
            caption = "\n".join([note, caption] if caption else [note])
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key in keys:
        # names are there to be typed again: broken over two lines rather than cut; numbers are never broken
        number = all(isinstance(row.get(key), int | float | None) for row in rows)
        longest = max(len(_cell(row.get(key))) for row in rows)
        table.add_column(
            key.replace("_", " "),
            overflow="fold",
            no_wrap=number,
            justify="right" if number else "left",
            min_width=min(longest, _NAME) if key == keys[0] else None,
            width=widths.get(key),
        )
    for row in rows:
        table.add_row(*[_cell(row.get(key)) for key in keys])
    console.print(table)
    if caption:
        console.print(caption, soft_wrap=True)


def _widths(columns: dict[str, list[str]], line: int, spare: tuple[str, ...]) -> dict[str, int]:
    """Characters of each column, of those that a line has room for; of `spare` as few are left out as can be.

    What is over goes to the first column that can use it: rich itself would take from names as from long texts.
    """
    least = {key: max(len(word) for text in (key, *cells) for word in text.split()) for key, cells in columns.items()}
    longest = {key: max(map(len, (key, *cells))) for key, cells in columns.items()}
    first = next(iter(columns))
    least[first] = min(longest[first], _NAME)
    if "problem" in least:
        least["problem"] = min(least["problem"], _WORD)

    def room() -> int:
        return line - sum(least.values()) - 2 * len(least) - 1  # between columns and at the edges

    for key in spare:
        if room() < 0:
            least.pop(key, None)
    widths, left = {}, max(0, room())
    for key, width in least.items():
        more = min(left, longest[key] - width)
        widths[key], left = width + more, left - more
    return widths


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
