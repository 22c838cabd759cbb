"""C3D against the fact sheet, VCOP's and PRP's key names, and VCOP's output."""

import pytest
import torch
from torch import nn

from vidssl.backbones.base import num_parameters
from vidssl.backbones.c3d import C3D
from vidssl.errors import ConfigError

from .golden import digest, fill_as_executed, formula_clip


@pytest.fixture(scope="module")
def weightless():
    """All shapes, no numbers: full-size clips cost nothing."""
    with torch.device("meta"):
        return C3D().eval()


def test_counts_and_biases_of_the_sheet(weightless):
    assert num_parameters(weightless) == 27_661_440
    assert all(m.bias is not None for m in weightless.modules() if isinstance(m, nn.Conv3d))


def test_key_names_are_vcops(weightless):
    keys = list(weightless.state_dict())
    assert keys[:4] == ["conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias"]
    assert {"conv3a.weight", "bn3b.running_mean", "conv5b.bias"} < set(keys)
    assert len(keys) == 8 * 7
    assert [C3D.rename_public(key) for key in keys] == keys


def test_prps_key_names_are_mapped_in_their_order(weightless):
    stages = ("conv1", "conv2", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2")
    tensors = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
    prp = [f"{stage}.conv3d.{tensor}" for stage in stages for tensor in tensors]
    assert [C3D.rename_public(key) for key in prp] == list(weightless.state_dict())
    assert C3D.rename_public("conv6_cls.conv3d.0.weight") == "conv6_cls.conv3d.0.weight"  # of PRP's head


@pytest.mark.parametrize(("frames", "out_frames"), [(8, 1), (12, 1), (16, 2), (32, 4)])
@pytest.mark.parametrize(("size", "out_size"), [(16, 1), (96, 6), (112, 7), (128, 8), (224, 14)])
def test_map_shapes(weightless, frames, out_frames, size, out_size):
    x_BCTHW = torch.empty(2, 3, frames, size, size, device="meta")
    assert weightless(x_BCTHW).shape == (2, 512, out_frames, out_size, out_size)


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        ((4, 112, 112), "4 frames; legal: 8 or more"),
        ((7, 16, 16), "7 frames; legal: 8 or more"),
        ((8, 15, 16), "15 pixels of height; legal: 16 or more"),
        ((8, 16, 15), "15 pixels of width; legal: 16 or more"),
    ],
)
def test_a_clip_too_small_is_refused_with_what_is_legal(weightless, clip, words):
    with pytest.raises(ConfigError, match=words):
        weightless(torch.empty(1, 3, *clip, device="meta"))


def test_golden_output():
    # Made with VCOP's models/c3d.py given the same weights and clips; RSPNet's and PRP's give it too: all bit-equal,
    # in eval mode as well, at 16x112x112, 12x128x96 and 32x80x80. Kept in train mode, because with the formula's
    # running statistics most of the map is zero.
    net = C3D().double().train()
    clips = formula_clip(2, 3, 8, 32, 32)
    fill_as_executed(net, clips)
    with torch.no_grad():
        feature = net.pooled(clips)[0]
    assert digest(feature) == pytest.approx(
        [
            0.8126736454662932,
            0.6302886677804843,
            1.6508486527343518,
            1.7348648802132016,
            1.781940353868009,
            1.7902926597039757,
            1.7560566304331808,
            1.6737018761086395,
        ],
        rel=1e-6,
    )
