"""Where the data sets come from: one table of public addresses and sizes, and where to ask for what is behind a form.

Looked up, not tried from here:

- k400: the copy that CVDF hosts. Lists, annotations and the archive of replacements: cvdfoundation/kinetics-dataset:
  README.md and k400_downloader.sh; counts of videos: arrange_by_classes.py there. 242, 20 and 39 parts and their bytes:
  a published listing of the Content-Length of all objects (July 2026), whose total of 435 GiB is that of issue 15 of
  the same repository. The parts of the test split (56 GB) are left out: nobody of this field measures on it.
- ucf101: the authors' addresses, as many repositories give them; 6.5 GB and 27 hours of video as published (Soomro,
  Zamir and Shah, CRCV-TR-12-01, 2012).
- diving48: open-mmlab/mmaction2:tools/data/diving48/download_videos.sh, the V2 tables beside it; 10.3 GB is what copies
  of the archive have. Its server is reported to answer 403 to machines of cloud providers.
- hmdb51: hmdb51_org.rar (2.1 GB) lay at the authors' server, which fiftyone (voxel51/fiftyone, pull request 6528,
  November 2025) found defunct. It is therefore no address to fetch from.
- ssv2: after signing in at Qualcomm and accepting the licence; names and sizes: the SSv2 tutorial of gluon-cv, and
  siddk/voltron-robotics:examples/pretrain/README.md for the zip archives of today.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, DataError
from .archives import is_archive_name

AGAIN = (
    "It was removed, what was finished before stays. A proxy or the server may send a page in its place: try again, or "
    "another copy with --mirror URL."
)


@dataclass(frozen=True)
class Parts:
    """Archives of one kind.

    Args:
        name: what they hold; their files are told apart by it.
        address: below the base, of the archive, or of a text file with the address of an archive in every line.
        count: how many archives.
        bytes: of all of them.
        videos: within them.
        role: "train" where a subset thins them out, "test" where all are taken, "again" where they stand in for videos
            of the others.
        listed: whether the address is that of a list.
    """

    name: str
    address: str
    count: int
    bytes: int
    videos: int
    role: str = "train"
    listed: bool = False


@dataclass(frozen=True)
class Public:
    """What anybody may fetch.

    Args:
        base: what all addresses begin with; `--mirror` takes its place.
        tables: addresses below the base of labels and splits: small files.
        parts: the archives, in the order in which they are taken. Of two files for one video the first counts.
        seconds: usual length of a video, for the estimate of what is kept; 0 where it is not known.
    """

    base: str
    tables: tuple[str, ...]
    parts: tuple[Parts, ...]
    seconds: float


@dataclass(frozen=True)
class Origin:
    """Where a data set is to be had.

    Args:
        page: of the people who give it out.
        files: what a source should hold, in words.
        terms: what stands between a user and the files; "" where nothing does.
        public: addresses to fetch from, None where there are none.
    """

    page: str
    files: str
    terms: str = ""
    public: Public | None = None


ORIGINS = {
    "k400": Origin(
        page="https://github.com/cvdfoundation/kinetics-dataset",
        files="train.csv and val.csv, and the videos YOUTUBEID_START_END.mp4 or the archives part_N.tar.gz",
        public=Public(
            base="https://s3.amazonaws.com/kinetics/400/",
            tables=("annotations/train.csv", "annotations/val.csv"),
            parts=(
                Parts("replacement", "replacement_for_corrupted_k400.tgz", 1, 10_502_888_181, 1_392, role="again"),
                Parts("val", "val/k400_val_path.txt", 20, 30_354_517_239, 19_881, role="test", listed=True),
                Parts("train", "train/k400_train_path.txt", 242, 370_322_270_904, 240_258, listed=True),
            ),
            seconds=10.0,
        ),
    ),
    "ucf101": Origin(
        page="https://www.crcv.ucf.edu/data/UCF101.php",
        files="UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip, or what is in them",
        public=Public(
            base="https://www.crcv.ucf.edu/data/UCF101/",
            tables=("UCF101TrainTestSplits-RecognitionTask.zip",),
            parts=(Parts("videos", "UCF101.rar", 1, 6_500_000_000, 13_320),),
            seconds=27 * 3600 / 13_320,
        ),
    ),
    "diving48": Origin(
        page="http://www.svcl.ucsd.edu/projects/resound/dataset.html",
        files="Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json, and the videos or "
        "Diving48_rgb.tar.gz",
        public=Public(
            base="http://www.svcl.ucsd.edu/projects/resound/",
            tables=("Diving48_V2_train.json", "Diving48_V2_test.json", "Diving48_vocab.json"),
            parts=(Parts("rgb", "Diving48_rgb.tar.gz", 1, 10_300_000_000, 16_997),),
            seconds=0.0,
        ),
    ),
    "hmdb51": Origin(
        page="https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        files="hmdb51_org.rar (2.1 GB) and test_train_splits.rar, or what is in them",
        terms="the authors' server no longer answers (November 2025): ask them, or somebody who has the files",
    ),
    "ssv2": Origin(
        page="https://www.qualcomm.com/developer/software/something-something-v-2-dataset/downloads",
        files="the 20 parts 20bn-something-something-v2-00 to -19 (19.4 GB) and the labels "
        "(20bn-something-something-download-package-labels.zip), or what is in them",
        terms="sign in with a Qualcomm account and accept the licence",
    ),
}


def public_of(dataset: str) -> Public:
    """The public addresses of a data set. Raises ConfigError where it has none."""
    origin = ORIGINS.get(dataset)
    if origin is None:
        raise ConfigError(f"{dataset!r} cannot be downloaded: no address of it is known. What you have: --source DIR.")
    if origin.public is None:
        raise ConfigError(
            f"{dataset} cannot be downloaded: {origin.terms}. Look at {origin.page}. Then give --source DIR with "
            f"{origin.files}."
        )
    return origin.public


def rebased(address: str, public: Public, mirror: str | None) -> str:
    """The whole address of a file.

    Args:
        address: below the base, or a whole one (as the official lists have them).
        mirror: what takes the place of the base.
    """
    base = public.base if mirror is None else mirror.rstrip("/") + "/"
    if "://" not in address:
        return base + address
    scheme_free, own = address.partition("://")[2], public.base.partition("://")[2]
    return base + scheme_free.removeprefix(own) if scheme_free.startswith(own) else address


def listed_addresses(content: bytes, address: str) -> list[str]:
    """The addresses that a list of archives has, one a line, each http://, https:// or below the base.

    Args:
        address: of the list, to be named.

    Raises:
        DataError: it is something else, as a page that a server sends in its place.
    """
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    names = [line.rpartition("/")[2] for line in lines]
    for line, name in zip(lines, names, strict=True):
        web = "://" not in line or line.startswith(("http://", "https://"))
        if not (web and line.isprintable() and is_archive_name(name) and names.count(name) == 1):
            why = "is there twice" if names.count(name) > 1 else "is no address of an archive"
            raise DataError(f"{address} is no list of archives: {line[:80]!r} in it {why}. {AGAIN}")
    if not lines:
        raise DataError(f"{address} is no list of archives: it is empty. {AGAIN}")
    return lines


def check_mirror(mirror: str) -> None:
    """Raises ConfigError where it is no address to fetch from."""
    if not mirror.startswith(("http://", "https://")):
        raise ConfigError(
            f"mirror {mirror!r} is not possible. Legal: an address that begins with http:// or https:// and has the "
            "folders of the original below it. Files on this machine: --source FOLDER."
        )
