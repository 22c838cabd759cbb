"""Where prepared data and runs live: `$VIDSSL_HOME`, by default the platform's folder for user data."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    return Path(os.environ.get("VIDSSL_HOME") or platformdirs.user_data_dir("vidssl"))


def stores_dir() -> Path:
    return home() / "data"


def runs_dir() -> Path:
    return home() / "runs"
