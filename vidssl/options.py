"""What a task or a backbone can be told, and whether it was told so rightly."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_type_hints

from .errors import unknown_name
from .legal import check_value


@dataclass(frozen=True)
class Named:
    """A name and the options of what it names."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


Options = dict[str, tuple[Any, Any]]
"""name -> (type, default) of what a task or a backbone can be told."""


def dataclass_options(args: type) -> Options:
    """The options that an `Args` dataclass declares."""
    hints, defaults = get_type_hints(args), asdict(args())
    return {name: (hints[name], default) for name, default in defaults.items()}


def signature_options(cls: type) -> Options:
    """The options that a constructor takes by keyword."""
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    parameters = inspect.signature(cls).parameters
    return {name: (hints.get(name, Any), item.default) for name, item in parameters.items()}


def complete_options(named: Named, options: Options, kind: str) -> Named:
    """All options, given ones checked, others at their defaults. Raises ConfigError on an unknown or illegal one."""
    done = {key: default for key, (_, default) in options.items()}
    for key, value in named.options.items():
        if key not in options:
            raise unknown_name("key", f"{kind}.{key}", [f"{kind}.{name}" for name in options])
        done[key] = check_value(f"{kind}.{key}", value, options[key][0])
    return replace(named, options=done)
