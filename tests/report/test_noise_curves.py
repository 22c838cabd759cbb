"""The pictures of the robustness test: the curves hold the result's numbers, the sheet the noise's very bytes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from vidssl.data import ClipRequest, open_decoder, open_store
from vidssl.evals.robustness import CLEAN, scores
from vidssl.report.curves import png
from vidssl.report.noise_curves import draw_noise_curves, draw_noise_sheet
from vidssl.spec import EvalSpec
from vidssl.transforms.noise import add_noise, frame_keys


def make_result(clean: int = 8) -> dict:
    right = {CLEAN: clean, ("shot", 1): 6, ("shot", 4): 4, ("speckle", 1): 7, ("speckle", 4): 2}
    found = scores(np.array([np.arange(10) < n for n in right.values()]), list(right))
    made = {"table": "video", "resolution": [128, 171], "network_size": 112, "videos": 10, "chance": 0.3}
    return {**made, **found}


def test_the_lines_are_the_numbers():
    result = make_result()
    figure = draw_noise_curves(result, "prp")
    top1, drop = figure.axes
    lines = {line.get_label(): line for line in top1.lines}
    assert lines["shot"].get_xydata().tolist() == [[0, 0.8], [1, 0.6], [4, 0.4]]
    assert lines["speckle"].get_xydata().tolist() == [[0, 0.8], [1, 0.7], [4, 0.2]]
    assert set(lines["chance"].get_ydata()) == {0.3}
    drops = {line.get_label(): list(line.get_ydata()) for line in drop.lines}
    assert drops["shot"] == pytest.approx([0, 0.25, 0.5])
    assert drops["speckle"] == pytest.approx([0, 0.125, 0.75])
    assert drops["down to chance"] == pytest.approx([0.625, 0.625])  # from 0.8 to 0.3
    assert drops["mean of the noises"] == pytest.approx([0, 0.1875, 0.625])
    # 1 - (6 + 4 + 7 + 2) / 4 / 8 = 0.40625
    assert "0.406" in drop.get_title()
    title = figure.get_suptitle()
    assert all(words in title for words in ("prp", "10 videos", '"video"', "171x128", "network at 112"))


def test_the_bands_are_the_intervals():
    result = make_result()
    top1 = draw_noise_curves(result, "prp").axes[0]
    for band, kind in zip(top1.collections, result["noises"], strict=True):
        corners = band.get_paths()[0].vertices
        entries = [result["clean"], *result["noises"][kind].values()]
        for at, entry in zip([0, 1, 4], entries, strict=True):
            heights = sorted(set(corners[corners[:, 0] == at, 1].tolist()))
            assert [heights[0], heights[-1]] == pytest.approx(entry["interval"])


def test_without_a_clean_hit_the_second_panel_says_so():
    drop = draw_noise_curves(make_result(clean=0), "prp").axes[1]
    assert not drop.lines
    assert "clean accuracy is 0" in drop.texts[0].get_text()


def test_the_sheet_shows_the_very_bytes(tiny_store):
    store = open_store(tiny_store)
    decoder, video = open_decoder("pyav", store, threads=1), 5
    spec = replace(EvalSpec(), noise_kinds=["impulse", "shot"], noise_severities=[1, 5], noise_table="imagenet-c")
    figure = draw_noise_sheet(decoder, video, spec, 3)
    drawn = (imread(io.BytesIO(png(figure)))[..., :3] * 255).round().astype(np.uint8)
    scale = 3  # 64 pixels three times are wide enough
    frame = np.array([store.frames[video] // 2])
    clean = decoder.decode([ClipRequest(video, frame)])
    keys = frame_keys(torch.from_numpy(store.keys[[video]].view(np.int64)), torch.from_numpy(frame)[None], 3)
    places = []
    for kind in spec.noise_kinds:
        for severity in spec.noise_severities:
            picture = add_noise(clean, kind, severity, "imagenet-c", seed=keys)[0, 0].numpy()
            places.append(find(drawn, picture.repeat(scale, 0).repeat(scale, 1)))
    rows, columns = np.array(places).T
    assert rows[0] == rows[1] < rows[2] == rows[3]
    assert columns[0] == columns[2] < columns[1] == columns[3]
    said = [text.get_text() for text in figure.axes[0].texts]
    strengths = [f"severity {s}, c = {c}" for s, c in ((1, "0.03"), (5, "0.27"), (1, "60"), (5, "3"))]
    assert {"impulse", "shot", "clean", *strengths} <= set(said)
    assert any(f"frame {frame[0]} of {store.ids[video]}, 64x48 pixels" in text for text in said)


def find(drawn: np.ndarray, picture: np.ndarray) -> tuple[int, int]:
    """Row and column of a picture that is drawn without any change, once."""
    height, width = picture.shape[:2]
    rows, columns = drawn.shape[0] - height, drawn.shape[1] - width
    corner = (drawn[:rows, :columns] == picture[0, 0]).all(2) & (
        drawn[height - 1 :, width - 1 :][:rows, :columns] == picture[-1, -1]
    ).all(2)
    found = [(y, x) for y, x in np.argwhere(corner) if np.array_equal(drawn[y : y + height, x : x + width], picture)]
    assert len(found) == 1
    return tuple(int(n) for n in found[0])


def test_the_dashed_square_is_the_crop(tiny_store):
    decoder = open_decoder("pyav", open_store(tiny_store), threads=1)
    axes = draw_noise_sheet(decoder, 0, replace(EvalSpec(), noise_kinds=["shot"], noise_severities=[1]), 3).axes[0]
    # 112/128 of 48 pixels are 42; three pixels of the figure each; 11 and 3 pixels from the corner
    (square,) = axes.patches
    assert (square.get_width(), square.get_height()) == (126, 126)
    top_of_picture = next(text.get_position()[1] for text in axes.texts if text.get_text() == "clean") + 4
    assert square.get_y() - top_of_picture == 9
