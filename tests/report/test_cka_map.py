"""The picture of a CKA map: what is drawn is what was computed."""

from __future__ import annotations

import numpy as np

from vidssl.analysis.cka_map import CKAMap
from vidssl.report.cka_map import MOST_NAMES, draw_cka


def a_map(layers: int, itself: bool = True) -> CKAMap:
    distance = np.abs(np.subtract.outer(np.arange(layers), np.arange(layers)))
    names = [f"conv{layer}" for layer in range(layers)]
    return CKAMap(names, names, 1 - distance / layers, 3, 96, 7, itself=itself)


def text(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_first_layers_at_the_lower_left_on_a_fixed_scale(tmp_path):
    cka = a_map(5)
    cka.values_LL[4] = np.nan
    figure = draw_cka(cka, "prp", "vcop")
    axes, bar = figure.axes
    assert axes.get_title() == "prp vs vcop"
    assert ("vcop" in axes.get_xlabel(), "prp" in axes.get_ylabel()) == (True, True)
    image = axes.images[0]
    assert (image.origin, image.get_clim(), image.get_cmap().name) == ("lower", (0, 1), "magma")
    np.testing.assert_array_equal(image.get_array().filled(np.nan), cka.values_LL)
    assert [label.get_text() for label in axes.get_yticklabels()] == cka.names_x
    assert bar.get_ylim() == (0, 1)
    assert "grey: the same output for every clip (conv4)" in text(figure)
    figure.savefig(tmp_path / "cka.png")


def test_the_block_is_framed_and_named():
    figure = draw_cka(a_map(20), "prp", "prp")
    frame = figure.axes[0].patches[0]
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, -0.5), 3, 3)
    assert "3 of 20 layers in a row (conv0 to conv2), every pair with CKA of 0.9 or more" in text(figure)
    assert "96 clips in 3 minibatches; 7 more in a short one" in text(figure)


def test_between_networks_and_for_many_layers():
    figure = draw_cka(a_map(MOST_NAMES + 1, itself=False), "teacher", "student")
    axes = figure.axes[0]
    assert not axes.patches
    assert "block" not in text(figure)
    assert not any("conv" in label.get_text() for label in axes.get_xticklabels())
