"""A run's folder: what was asked, what happened, what came out. Every file is written whole or not at all.

spec.toml          the resolved spec; under [[augmentation]] what is done to the pictures, under [identity] the hashes
                   of the request and the data; written before step 0
environment.json   versions and machine
log.jsonl          one line an interval; all but the field `time` is the same, bit for bit, in every repetition on a CPU
checkpoints/       STAGE-STEP.pt, the newest two of a stage, the last of a finished one
stages/STAGE.json  the result of a finished stage; its being there means done
model.safetensors  the backbone after pre-training
pretrain.png       how the pre-training went
summary.json       every number a table needs
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import tomli_w

from ..errors import EnvironmentProblem, RunError
from ..spec import differences

PACKAGES = (
    "vidssl",
    "torch",
    "torchvision",
    "accelerate",
    "av",
    "nvidia-dali-cuda130",
    "numba",
    "numpy",
    "simplejpeg",
)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes a file so that a reader, or a crash, sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def output_error(path: Path, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"cannot write {path}: {error.strerror or error}. Free some space or permissions there, or choose another "
        f"place "
        "with --out (runs) or the environment variable VIDSSL_HOME (runs and data). What was there is untouched."
    )


class RunDirectory:
    """Opens a run's folder, new or to go on."""

    def __init__(self, path: Path, main: bool = True) -> None:
        self.path = Path(path)
        self.main = main  # only one process of several writes

    def stored(self) -> dict[str, Any] | None:
        """The content of spec.toml, or None where no run has begun here."""
        file = self.path / "spec.toml"
        if not file.exists():
            others = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            if others:
                raise RunError(
                    f"{self.path} holds other files ({', '.join(sorted(others)[:3])}) and no spec.toml, so it is no "
                    f"run. "
                    "Choose an empty or new folder with --out."
                )
            return None
        try:
            content = tomllib.loads(file.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise RunError(f"{file} cannot be read ({error}). Choose another folder with --out.") from error
        content.pop("augmentation", None)  # follows from the rest
        return content

    def begin(
        self,
        resolved: dict[str, Any],
        identity: dict[str, Any],
        measured: dict[str, Any],
        augmentation: list[dict[str, Any]] | None = None,
    ) -> None:
        """Writes what is to be done before it is done: spec, environment, and what "auto" was decided by."""
        if self.main:
            shown = {"augmentation": augmentation} if augmentation else {}
            write_atomic(self.path / "measured.json", json.dumps(measured, indent=1))
            write_atomic(self.path / "spec.toml", tomli_w.dumps({**resolved, **shown, "identity": identity}))
            write_atomic(self.path / "environment.json", json.dumps(environment(), indent=1))

    def require_same(self, stored: dict[str, Any], requested: dict[str, Any], request_hash: str) -> None:
        """Raises RunError where the folder belongs to another request, naming what differs."""
        identity = stored.get("identity", {})
        if identity.get("request") == request_hash:
            return
        changed = differences(json.loads(identity.get("requested", "{}")), requested)
        shown = "; ".join(changed[:6]) + (" ..." if len(changed) > 6 else "")
        raise RunError(
            f"{self.path} holds a run of another spec ({shown or 'an older form'}). Ask for the same to go on with "
            f"it, or choose "
            "another folder with --out. Nothing was changed."
        )

    def stage_result(self, stage: str) -> dict[str, Any] | None:
        file = self.path / "stages" / f"{stage}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def finish_stage(self, stage: str, result: dict[str, Any]) -> None:
        if self.main:
            write_atomic(self.path / "stages" / f"{stage}.json", json.dumps(result, indent=1))

    def log(self, record: dict[str, Any]) -> None:
        if self.main:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                with open(self.path / "log.jsonl", "a") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:
                raise output_error(self.path / "log.jsonl", error) from error

    def rewind_log(self, stage: str, step: int) -> None:
        """Drops lines of `stage` after `step`, and a last line that was cut short: they will be written again."""
        file = self.path / "log.jsonl"
        if not self.main or not file.exists():
            return
        kept = []
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["stage"] != stage or record["step"] <= step:
                kept.append(line)
        write_atomic(file, "".join(line + "\n" for line in kept))


def environment() -> dict[str, Any]:
    """Versions and machine, for whoever reads the numbers later."""
    import torch

    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "packages": versions,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(),
        "command": sys.argv,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
