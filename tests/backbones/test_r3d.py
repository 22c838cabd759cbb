"""R3D against the fact sheet, VCOP's key names and output, and torchvision's 18-layer network."""

import pytest
import torch
from torch import nn
from torchvision.models.video import r3d_18

from vidssl.backbones import create_backbone
from vidssl.backbones.base import num_parameters
from vidssl.backbones.r3d import R3D
from vidssl.errors import ConfigError

from .golden import digest, fill_as_executed, formula_clip


@pytest.fixture(scope="module")
def weightless():
    """All shapes, no numbers: full-size clips cost nothing."""
    with torch.device("meta"):
        return R3D().eval()


@pytest.mark.parametrize(("blocks", "parameters"), [(1, 14_361_792), (2, 33_166_272)])
def test_counts_and_biases_of_the_sheet(blocks, parameters):
    with torch.device("meta"):
        net = R3D(blocks=blocks).eval()
    assert num_parameters(net) == parameters
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv3d))


def test_key_names_are_vcops(weightless):
    keys = list(weightless.state_dict())
    assert keys[:2] == ["conv1.temporal_spatial_conv.weight", "bn1.weight"]
    assert "conv2.block1.conv1.temporal_spatial_conv.weight" in keys
    assert "conv3.block1.downsampleconv.temporal_spatial_conv.weight" in keys
    assert "conv5.block1.downsamplebn.running_var" in keys
    assert not any("conv2.block1.downsample" in key for key in keys)
    with torch.device("meta"):
        assert "conv2.blocks.0.conv2.temporal_spatial_conv.weight" in R3D(blocks=2).state_dict()


@pytest.mark.parametrize(("frames", "out_frames"), [(1, 1), (4, 1), (8, 1), (12, 2), (16, 2), (32, 4)])
@pytest.mark.parametrize(("size", "out_size"), [(1, 1), (96, 6), (112, 7), (128, 8), (224, 14)])
def test_map_shapes(weightless, frames, out_frames, size, out_size):
    x_BCTHW = torch.empty(2, 3, frames, size, size, device="meta")
    assert weightless(x_BCTHW).shape == (2, 512, out_frames, out_size, out_size)


def test_golden_output():
    # Made with VCOP's models/r3d.py given the same weights and clips; PRP's gives it too: all bit-equal, in eval mode
    # as well, at 16x112x112, 12x128x96 and 32x80x80, and with (2,2,2,2). Kept in train mode, because with the formula's
    # running statistics most of the map is zero.
    net = R3D().double().train()
    clips = formula_clip(2, 3, 8, 32, 32)
    fill_as_executed(net, clips)
    with torch.no_grad():
        feature = net.pooled(clips)[0]
    assert digest(feature) == pytest.approx(
        [
            1.0850488883106202,
            0.8493903759103494,
            0.9868445539273969,
            0.3618261344792219,
            0.1664375247606341,
            0.509424658078337,
            0.1432859834576192,
            0.2658372159194675,
        ],
        rel=1e-6,
    )


def test_two_blocks_per_stage_are_torchvisions_r3d_18():
    clips = torch.rand(2, 3, 4, 16, 16)
    ours, theirs = R3D(blocks=2).train(), r3d_18().train()
    theirs.fc = nn.Identity()
    for net in (ours, theirs):
        fill_as_executed(net, clips)
    with torch.no_grad():
        assert torch.allclose(ours.pooled(clips), theirs(clips), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("blocks", "words"), [(0, "from 1 on"), (True, "from 1 on"), (1.5, "from 1 on")])
def test_a_wrong_number_of_blocks_says_what_is_legal(blocks, words):
    with pytest.raises(ConfigError, match=words):
        R3D(blocks=blocks)


def test_taps_name_every_block():
    with torch.device("meta"):
        net = create_backbone("r3d", blocks=2)
    assert net.taps[:4] == ("relu1", "conv2.block1", "conv2.blocks.0", "conv3.block1")
    assert len(net.taps) == 1 + 4 * 2
