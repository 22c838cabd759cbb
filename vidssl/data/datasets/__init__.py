"""Data sets by name: each is a function that reads a source folder and its annotations.

    list_videos(source: Path, without: Path | None = None) -> Listing

`folder` serves every source that holds class folders, or train.csv and test.csv, or just videos. The embedded set is
rendered (`embedded.render`) into such a folder. `ucf101` and `hmdb51` read the official lists of three splits
(`split_lists.py`), `k400`, `ssv2` and `diving48` official tables of one (`annotated.py`). Others add a file and a line
here, or an entry point `vidssl.datasets` of another package.
"""

from __future__ import annotations

from ...registry import Registry

DATASETS = Registry(
    "data set",
    "vidssl.datasets",
    {
        "diving48": "vidssl.data.datasets.diving48:list_videos",
        "folder": "vidssl.data.datasets.folder:list_videos",
        "hmdb51": "vidssl.data.datasets.hmdb51:list_videos",
        "k400": "vidssl.data.datasets.k400:list_videos",
        "ssv2": "vidssl.data.datasets.ssv2:list_videos",
        "ucf101": "vidssl.data.datasets.ucf101:list_videos",
        "embedded": "vidssl.data.datasets.folder:list_videos",
    },
)
