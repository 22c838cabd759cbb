"""A contact sheet shows each frame it was given, in its place and colour, with its title."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from vidssl.report.clip_sheet import SheetRow, SheetSample, clip_sheet, drawn_frames


def grey_clip(frames, height=32, width=32):
    """Frame k is grey, (k + 1) / 40."""
    return np.broadcast_to((np.arange(frames)[:, None, None, None] + 1) / 40, (frames, height, width, 3))


def pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255


def place_of(figure, image):
    """Rows and columns of a drawn image within the figure's pixels."""
    left, right, bottom, top = image.get_extent()
    corners = figure.axes[0].transData.transform([(left, top), (right, bottom)])
    height = figure.canvas.get_width_height()[1]
    (x0, y0), (x1, y1) = corners
    return slice(round(height - y0), round(height - y1)), slice(round(x0), round(x1))


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_frames_are_drawn_where_their_titles_stand():
    rows = [SheetRow("first", grey_clip(16), [f"n{k}" for k in range(16)], "red"), SheetRow("second", grey_clip(3))]
    figure = clip_sheet("Title", "legend", [SheetSample("one", rows), SheetSample("two", rows[1:])])
    drawn, images = pixels(figure), figure.axes[0].images
    wanted = [*drawn_frames(16), 0, 1, 2, 0, 1, 2]
    assert len(images) == len(wanted)
    for image, k in zip(images, wanted, strict=True):
        inside = drawn[place_of(figure, image)][5:-5, 5:-5]
        assert np.abs(inside - (k + 1) / 40).max() < 0.005
    lines, columns = place_of(figure, images[0])
    assert np.abs(drawn[(lines.start + lines.stop) // 2, columns.start] - to_rgb("red")).max() < 0.05
    titles = [t for t in texts(figure) if t.startswith("n")]
    assert titles == [f"n{k}" for k in drawn_frames(16)]
    assert {"Title", "legend", "one", "two", "first", "second"} <= set(texts(figure))


def test_nothing_overlaps_and_all_is_on_the_sheet():
    rows = [SheetRow("a\nb", grey_clip(8, 20, 30), ["7"] * 8), SheetRow("c", grey_clip(5))]
    figure = clip_sheet("T", "l", [SheetSample("x" * 300, rows)] * 2)
    height, width = pixels(figure).shape[:2]
    taken = np.zeros((height, width), int)
    for image in figure.axes[0].images:
        taken[place_of(figure, image)] += 1
    assert taken.max() == 1
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        lines = slice(int(height - box.y1) + 1, int(height - box.y0))
        assert not taken[lines, int(box.x0) + 1 : int(box.x1)].any(), text.get_text()


def test_eight_of_more_frames_first_and_last_among_them():
    assert drawn_frames(5) == [0, 1, 2, 3, 4]
    assert drawn_frames(8) == list(range(8))
    assert drawn_frames(16) == [0, 2, 4, 6, 9, 11, 13, 15]
    assert drawn_frames(15) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_titles_of_the_drawn_frames_alone_will_do():
    row = SheetRow("", grey_clip(16), list("abcdefgh"))
    figure = clip_sheet("T", "l", [SheetSample("s", [row])])
    assert [t for t in texts(figure) if t in "abcdefgh" and t] == list("abcdefgh")


def test_a_long_heading_keeps_both_ends():
    heading = "class 3   " + "path/" * 60 + "clip.mp4, too short: extended"
    figure = clip_sheet("T", "l", [SheetSample(heading, [SheetRow("", grey_clip(8))])])
    shown = next(t for t in texts(figure) if t.startswith("class 3"))
    assert "..." in shown
    assert shown.endswith("clip.mp4, too short: extended")


@pytest.mark.parametrize(
    ("frames", "titles", "words"),
    [(np.zeros((3, 16, 16)), [], "wanted"), (grey_clip(16), ["1", "2"], "2 titles for 16 frames")],
)
def test_rows_that_cannot_be_drawn(frames, titles, words):
    with pytest.raises(ValueError, match=words):
        SheetRow("", frames, titles)
