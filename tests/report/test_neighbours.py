"""The picture of retrieval: which examples, which frames, which borders."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from vidssl.data.decode import open_decoder
from vidssl.data.decode.base import ClipRequest
from vidssl.data.store import open_store
from vidssl.errors import DataError, RunError
from vidssl.report.neighbours import KeptNeighbours, choose_queries, draw_neighbours


def found(labels: list[int], right: list[bool], ids: list[str] | None = None) -> KeptNeighbours:
    """Queries whose nearest is of their class or of the next one, in a gallery of one video a class."""
    classes = max(labels) + 2
    nearest = np.array(
        [[label, label + 1] if hit else [label + 1, label] for label, hit in zip(labels, right, strict=True)]
    )
    ids = ids or [f"q{k:02d}" for k in range(len(labels))]
    gallery = [f"g{k}" for k in range(classes)]
    similarity = np.tile(np.float32([0.75, 0.5]), (len(labels), 1))
    return KeptNeighbours(ids, gallery, np.array(labels), np.arange(classes), nearest, similarity)


def test_half_right_half_wrong_spread_over_classes():
    labels = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    neighbours = found(labels, [True, False] * 6)
    chosen = choose_queries(neighbours, 6)
    assert neighbours.right[chosen].tolist() == [True] * 3 + [False] * 3
    assert neighbours.query_labels[chosen].tolist() == [0, 2, 4, 1, 3, 5]
    assert len(choose_queries(neighbours, 100)) == 12


def test_first_by_id_whatever_the_order_of_the_file():
    neighbours = found([0, 0, 0, 1, 1, 1], [True] * 6, ["c", "a", "b", "f", "e", "d"])
    assert [neighbours.queries[k] for k in choose_queries(neighbours, 2)] == ["a", "d"]
    assert [neighbours.queries[k] for k in choose_queries(neighbours, 4)] == ["a", "d", "b", "e"]


@pytest.mark.parametrize(("hits", "right", "wrong"), [(1, 1, 5), (11, 5, 1), (0, 0, 6), (12, 6, 0)])
def test_what_one_half_lacks_the_other_gives(hits, right, wrong):
    neighbours = found([0, 1, 2] * 4, [k < hits for k in range(12)])
    answers = neighbours.right[choose_queries(neighbours, 6)].tolist()
    assert (answers.count(True), answers.count(False)) == (right, wrong)


def test_picture_holds_middle_frames_borders_and_names(tiny_store):
    store = open_store(tiny_store)
    decoder = open_decoder("pyav", store, threads=1)
    query, same, other = 0, 1, int(np.flatnonzero(store.labels != store.labels[0])[0])
    neighbours = KeptNeighbours(
        [store.ids[query]],
        [store.ids[other], store.ids[same]],
        store.labels[[query]],
        store.labels[[other, same]],
        np.array([[1, 0]]),
        np.float32([[0.875, 0.25]]),
    )
    figure = draw_neighbours(neighbours, decoder, store.label_names, "title")
    axes = figure.axes[0]
    for image, video in zip(axes.images, (query, same, other), strict=True):
        middle = decoder.decode([ClipRequest(video, np.array([store.frames[video] // 2]))])[0, 0]
        assert np.array_equal(image.get_array(), middle.numpy())
    borders = [(to_hex(p.get_edgecolor()), p.get_linestyle() == "-") for p in axes.patches if isinstance(p, Rectangle)]
    assert borders == [("#000000", True), ("#2a9d4a", True), ("#c8432b", False)]
    names = store.label_names
    label, wrong = names[store.labels[query]], names[store.labels[other]]
    assert [text.get_text() for text in axes.texts[-5:]] == [label, label, "0.875", wrong, "0.250"]


def test_videos_that_the_store_lacks_are_named(tiny_store):
    decoder = open_decoder("pyav", open_store(tiny_store), threads=1)
    with pytest.raises(DataError, match=r"3 videos of this retrieval are not in the data set 'h264' \(q00, g0, g1\)"):
        draw_neighbours(found([0], [True]), decoder, [], "title")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no array")
    np.savez(tmp_path / "other.npz", queries=["a"])
    for name in ("text.npz", "other.npz", "missing.npz"):
        with pytest.raises(RunError, match=f"{name} cannot be read as nearest neighbours"):
            KeptNeighbours.load(tmp_path / name)
