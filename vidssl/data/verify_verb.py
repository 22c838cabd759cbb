"""`vidssl prep --verify STORE`: from the command line's words to `verify`, and what it found to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from ..errors import ConfigError
from ..home import stores_dir


def verify_verb(store: str | None, repair: bool, dataset: str | None, as_json: bool, given: Collection[str]) -> bool:
    """Reads a store again and says what is wrong with it. Returns whether all is as it was written.

    Args:
        store: its name, or its folder.
        repair: with what is bad put back among what is to be done.
        dataset: what else the command line named; there must be nothing.
        given: parameters of prep that the command line has; others than those above mean nothing here.

    Raises:
        ConfigError: nothing, or too much, was named.
        DataError: it is no store, or prep is at work on it.
        EnvironmentProblem: it cannot be read or, with `repair`, written.
    """
    if store is None:
        raise ConfigError("`vidssl prep` needs a data set. Example: vidssl prep folder --source videos --name mine")
    if dataset is not None:
        raise ConfigError(f"--verify {store} checks what is prepared; {dataset!r} beside it has no meaning. Drop one.")
    if meaningless := sorted(set(given) - {"verify", "repair", "as_json"}):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in meaningless)
        raise ConfigError(f"--verify {store} takes --repair and --json, and none of {names}. Leave that out.")
    from ..engine.progress import Reporter
    from .prep_checks import cannot_write
    from .verify import verify

    named = stores_dir() / store
    folder = named if "/" not in store and named.is_dir() else Path(store).expanduser()
    try:
        found = verify(folder, Reporter(), repair)
    except OSError as error:
        raise cannot_write(folder, error) from error
    console = Console(file=sys.stderr if as_json else sys.stdout, soft_wrap=True, highlight=False)
    for line in found.words():
        console.print(line, markup=False)
    if as_json:
        print(json.dumps(found.to_json()))
    return not found.problems
