"""R(2+1)D against the fact sheet, and VCOP's key names and output."""

import pytest
import torch
from torch import nn

from vidssl.backbones.base import num_parameters
from vidssl.backbones.r21d import R2Plus1D
from vidssl.errors import ConfigError

from .golden import digest, fill_as_executed, formula_clip


@pytest.fixture(scope="module")
def weightless():
    """All shapes, no numbers: full-size clips cost nothing."""
    with torch.device("meta"):
        return R2Plus1D().eval()


@pytest.mark.parametrize(("blocks", "parameters"), [(1, 14_365_303), (2, 33_178_423)])
def test_counts_and_biases_of_the_sheet(blocks, parameters):
    with torch.device("meta"):
        net = R2Plus1D(blocks=blocks).eval()
    assert num_parameters(net) == parameters
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv3d))


def test_every_convolution_has_the_middle_width_of_its_own_channels(weightless):
    def middles(which):
        return [stage.block1.get_submodule(which).spatial_conv.out_channels for stage in stages]

    stages = (weightless.conv2, weightless.conv3, weightless.conv4, weightless.conv5)
    assert weightless.conv1.spatial_conv.out_channels == 83
    assert middles("conv1") == [144, 230, 460, 921]
    assert middles("conv2") == [144, 288, 576, 1152]


def test_the_shortcut_is_factored_too_with_a_norm_in_its_middle(weightless):
    shortcuts = [stage.block1.downsampleconv for stage in (weightless.conv3, weightless.conv4, weightless.conv5)]
    assert [s.spatial_conv.out_channels for s in shortcuts] == [42, 85, 170]
    assert [s.bn.num_features for s in shortcuts] == [42, 85, 170]
    assert all(s.spatial_conv.kernel_size == s.temporal_conv.kernel_size == (1, 1, 1) for s in shortcuts)
    assert not hasattr(weightless.conv2.block1, "downsampleconv")


def test_space_strides_on_the_spatial_half_and_time_on_the_temporal_half(weightless):
    stem, block = weightless.conv1, weightless.conv3.block1
    assert (stem.spatial_conv.kernel_size, stem.temporal_conv.kernel_size) == ((1, 7, 7), (3, 1, 1))
    assert (stem.spatial_conv.stride, stem.temporal_conv.stride) == ((1, 2, 2), (1, 1, 1))
    for conv in (block.conv1, block.downsampleconv):
        assert (conv.spatial_conv.stride, conv.temporal_conv.stride) == ((1, 2, 2), (2, 1, 1))


def test_key_names_are_vcops(weightless):
    keys = list(weightless.state_dict())
    assert keys[:2] == ["conv1.spatial_conv.weight", "conv1.bn.weight"]
    assert {"conv1.temporal_conv.weight", "bn1.weight", "conv3.block1.downsampleconv.bn.running_var"} < set(keys)
    with torch.device("meta"):
        assert "conv5.blocks.0.conv2.spatial_conv.weight" in R2Plus1D(blocks=2).state_dict()


@pytest.mark.parametrize(("frames", "out_frames"), [(1, 1), (4, 1), (8, 1), (12, 2), (16, 2), (32, 4)])
@pytest.mark.parametrize(("size", "out_size"), [(1, 1), (96, 6), (112, 7), (128, 8), (224, 14)])
def test_map_shapes(weightless, frames, out_frames, size, out_size):
    x_BCTHW = torch.empty(2, 3, frames, size, size, device="meta")
    assert weightless(x_BCTHW).shape == (2, 512, out_frames, out_size, out_size)


def test_golden_output():
    # Made with VCOP's models/r21d.py given the same weights and clips; RSPNet's models/r2plus1d_vcop.py gives it too:
    # bit-equal, in eval mode as well, at 16x112x112, 12x128x96 and 32x80x80, and with (2,2,2,2). Kept in train mode,
    # because with the formula's running statistics all of the map is zero.
    net = R2Plus1D().double().train()
    clips = formula_clip(2, 3, 8, 32, 32)
    fill_as_executed(net, clips)
    with torch.no_grad():
        feature = net.pooled(clips)[0]
    assert digest(feature) == pytest.approx(
        [
            0.9262097100175146,
            0.4511097434051426,
            1.077719046760775,
            1.760396701351382,
            1.6608151488774876,
            1.4407358960801702,
            1.8647005563962995,
            2.027875007917176,
        ],
        rel=1e-6,
    )


def test_a_wrong_number_of_blocks_says_what_is_legal():
    with pytest.raises(ConfigError, match="R2Plus1D: blocks=0 is not a whole number from 1 on"):
        R2Plus1D(blocks=0)
