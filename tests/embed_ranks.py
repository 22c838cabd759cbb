"""Run by test_embed.py under torchrun: makes FOLDER/two.npz in pieces of five videos.

Args: folder, with the run's and the store's in request.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from tests.finished import add_small_net
from vidssl import embed
from vidssl.data.store import open_store
from vidssl.embed import Wanted
from vidssl.engine.progress import Reporter
from vidssl.pretrained import open_run
from vidssl.resolve import leave_together, processes


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    add_small_net()
    embed.PIECE = 5
    asked = json.loads((folder / "request.json").read_text())
    store = open_store(asked["store"])
    assert processes().num_processes == 2
    opened = open_run(Path(asked["run"]), {})
    embed.embed(opened, store, Wanted(clips=2), folder / "two.npz", Reporter(quiet=True), decoder="pyav")
    leave_together()


if __name__ == "__main__":
    main()
