"""What a classifier said of each test video: kept, so that later questions need no second test.

Per-class accuracy, confusion, and the comparison of two runs video by video are read from it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..engine.runs import write_atomic
from ..errors import RunError

_ARRAYS = ("ids", "labels", "probabilities_VK", "classes")


@dataclass(frozen=True)
class Predictions:
    """Of V test videos and K classes.

    Args:
        ids: of the store.
        labels: int64 [V], the true classes.
        probabilities_VK: float64, of the averaged clips of a video; of one training.
        classes: names, in the order of the columns.
    """

    ids: list[str]
    labels: np.ndarray
    probabilities_VK: np.ndarray
    classes: list[str]

    @property
    def predicted(self) -> np.ndarray:
        """int64 [V]; of equal probabilities the first."""
        return self.probabilities_VK.argmax(axis=1)

    def confusion(self) -> np.ndarray:
        """int64 [K, K]: videos of the row's class that were taken for the column's."""
        out = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(out, (self.labels, self.predicted), 1)
        return out

    def per_class(self) -> dict[str, float]:
        """Top-1 of every class that has test videos."""
        confusion = self.confusion()
        videos = confusion.sum(axis=1)
        hits = confusion.diagonal()
        return {name: float(hits[k] / videos[k]) for k, name in enumerate(self.classes) if videos[k]}

    def save(self, path: Path) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            ids=np.array(self.ids, str),
            labels=self.labels,
            probabilities_VK=self.probabilities_VK,
            classes=np.array(self.classes, str),
        )
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Raises RunError where the file is missing or is none of these."""
        try:
            with np.load(path) as file:
                ids, labels, probabilities, classes = (file[name] for name in _ARRAYS)
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise RunError(
                f"{path} cannot be read as predictions ({error}). Evaluate again: `vidssl eval RUN --on DATA --out "
                "DIR`."
            ) from error
        return cls(ids.tolist(), labels, probabilities, classes.tolist())
