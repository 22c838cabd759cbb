"""Name -> "module:attribute" tables, imported on use.

A table of strings can be read and searched, has no import side effects and keeps `--help` fast. Other packages add
entries through the entry-point group `vidssl.<kind>` (for example `vidssl.tasks`) without touching this one.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from .errors import unknown_name


class Registry:
    """A table of one kind of thing.

    Args:
        kind: singular noun for messages ("task").
        group: entry-point group through which other packages add entries.
        table: name -> "package.module:attribute".
    """

    def __init__(self, kind: str, group: str, table: dict[str, str]) -> None:
        self.kind = kind
        self._group = group
        self._table = dict(table)
        self._plugins_read = False

    def _entries(self) -> dict[str, str]:
        if not self._plugins_read:
            self._plugins_read = True
            for point in entry_points(group=self._group):
                self._table.setdefault(point.name, point.value)
        return self._table

    def names(self) -> list[str]:
        return sorted(self._entries())

    def get(self, name: str) -> Any:
        """The object behind a name. Raises ConfigError with the nearest legal name."""
        entries = self._entries()
        if name not in entries:
            raise unknown_name(self.kind, name, entries)
        module, _, attribute = entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
