"""What can go wrong by the user's doing. The command line prints the message and exits with status 2.

Every message says four things: what was wrong, the value that was seen, which values are legal, and what to try.
Programmer's errors are plain `assert` or built-in exceptions and keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VidsslError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(VidsslError):
    """An unknown name or key, or a value outside its legal range."""


class DataError(VidsslError):
    """A source, a store or a subset that is missing, empty, damaged or of another kind."""


class RunError(VidsslError):
    """A run directory or checkpoint that cannot be used as asked."""


class EnvironmentProblem(VidsslError):
    """Something on this machine is missing: a package, a device, space, a permission."""


def unknown_name(kind: str, name: str, legal: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a table, with the nearest legal one where there is one."""
    names = sorted(legal)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {kind} {name!r}.{hint} Available: {', '.join(names) or '(none)'}.")
