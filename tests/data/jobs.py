"""What the tests of `prep --cluster` share: a source, a submitting process of its own, and a look at its jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.media import moving_square, write_video
from vidssl.data.cluster_job import SUBMISSION

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = {"name": "handed", "short_side": 48, "shard_videos": 5}

PROGRAM = """
import json, signal, sys
from pathlib import Path
from vidssl.data.prep import prepare
from vidssl.errors import VidsslError

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
try:
    prepare(source=Path(sys.argv[1]), store_dir=Path(sys.argv[2]), **json.loads(sys.argv[3]))
except VidsslError as error:
    sys.exit(f"{type(error).__name__} {error}")
except KeyboardInterrupt:
    sys.exit(130)
"""


def make_source(folder: Path) -> Path:
    """Ten videos in two shards, one of them bad."""
    for number in range(9):
        frames = moving_square(90 + number, size=(320, 240), speed=1 + number % 5, phase=number)
        write_video(folder / f"class {number % 3}" / f"{number}.mp4", frames)
    (folder / "class 0" / "empty.mp4").write_bytes(b"")
    return folder


def submit(source: Path, store: Path, **options: Any) -> subprocess.Popen[str]:
    """A process that runs `prepare`, at the head of a group of its own."""
    words = [sys.executable, "-c", PROGRAM, str(source), str(store), json.dumps({**OPTIONS, **options})]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Returns what the condition gives once it is true."""
    until = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)
    return answer


def job_ids(store: Path) -> list[str]:
    """Ids of the submitted jobs, by submitit's files. For local ones that is the process of its controller."""
    pickles = (store / "staging").glob(f"{SUBMISSION}*/log/*_submitted.pkl")
    return sorted(file.name.removesuffix("_submitted.pkl") for file in pickles)


def staged(store: Path, part: str = "*") -> int:
    """Videos that jobs have finished and not yet put into a shard."""
    return len(list((store / "staging").glob(f"{SUBMISSION}*/{part}.*/staging/*.json")))


def below(process: int) -> list[int]:
    """A process and all that it started and these started, if it is there."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(further for child in children for further in below(int(child)))]


def runs(process: int) -> bool:
    """Zombies do not: nobody waits for the jobs of a killed process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def send(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        if runs(process):
            os.kill(process, number)
