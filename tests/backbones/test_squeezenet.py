"""SqueezeNet 3D against the fact sheet, and its public key names and output."""

import math

import pytest
import torch
from torch import nn

from vidssl.backbones import create_backbone
from vidssl.backbones.base import num_parameters
from vidssl.backbones.squeezenet import Fire, SqueezeNet
from vidssl.errors import ConfigError

from .golden import digest, fill_as_executed, formula_clip


def weightless(**options):
    """All shapes, no numbers: full-size clips cost nothing."""
    with torch.device("meta"):
        return SqueezeNet(**options).eval()


@pytest.mark.parametrize(("version", "parameters"), [("1.1", 1_837_760), ("1.0", 1_931_968)])
def test_counts_and_biases_of_the_sheet(version, parameters):
    net = weightless(version=version)
    assert num_parameters(net) == parameters
    assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv3d))


@pytest.mark.parametrize(
    ("version", "pools", "fires"),
    [("1.1", [3, 6, 9, 12], [4, 5, 7, 8, 10, 11, 13, 14]), ("1.0", [3, 6, 9, 13], [4, 5, 7, 8, 10, 11, 12, 14])],
)
def test_pools_fires_and_bypasses_stand_where_the_sheet_says(version, pools, fires):
    net = weightless(version=version)
    layers = list(net.features)
    assert [number for number, layer in enumerate(layers) if isinstance(layer, nn.MaxPool3d)] == pools
    assert [number for number, layer in enumerate(layers) if isinstance(layer, Fire)] == fires
    assert [number for number in fires if layers[number].use_bypass] == [5, 8, 11, 14]
    assert net.taps == ("features.2", "features.3", *(f"features.{number}" for number in fires))


def test_key_names_are_the_public_ones():
    keys = list(weightless().state_dict())
    assert keys[:3] == ["features.0.weight", "features.0.bias", "features.1.weight"]
    assert {"features.4.squeeze.bias", "features.4.squeeze_bn.weight", "features.14.expand3x3_bn.running_var"} < set(
        keys
    )
    assert "features.4.expand1x1.weight" in keys
    assert len(keys) == 25 * 7


@pytest.mark.parametrize(("frames", "out_frames"), [(1, 1), (4, 1), (8, 1), (12, 1), (16, 1), (32, 2)])
@pytest.mark.parametrize(("size", "out_size"), [(1, 1), (96, 3), (112, 4), (128, 4), (224, 7)])
def test_map_shapes(frames, out_frames, size, out_size):
    x_BCTHW = torch.empty(2, 3, frames, size, size, device="meta")
    assert weightless()(x_BCTHW).shape == (2, 512, out_frames, out_size, out_size)


GOLDEN = {
    "1.1": [
        1.0345295907751701,
        0.49833987993165213,
        1.4026236863393027,
        0.6036985342813165,
        1.3554977180914425,
        1.2707487241974902,
        1.3925539501957473,
        0.9401923361445347,
    ],
    "1.0": [
        1.7263471077023715,
        0.6474693622225338,
        1.907195648664149,
        1.2501034141531073,
        1.197842908270816,
        1.8570096034547232,
        2.019049145445915,
        0.6832028724064108,
    ],
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_golden_output(version):
    # Made with Efficient-3DCNNs' models/squeezenet.py given the same weights and clips: bit-equal, in eval mode as
    # well, at 16x112x112, 12x128x96 and 32x80x80. Kept in train mode, which depends on no running statistics.
    net = SqueezeNet(version=version).double().train()
    clips = formula_clip(2, 3, 8, 40, 40)
    fill_as_executed(net, clips)
    with torch.no_grad():
        feature = net.pooled(clips)[0]
    assert digest(feature) == pytest.approx(GOLDEN[version], rel=1e-6)


def test_kernels_start_as_kaiming_normal_by_fan_out():
    kernel = SqueezeNet().features[14].expand3x3.weight
    assert kernel.std().item() == pytest.approx(math.sqrt(2 / (256 * 27)), rel=0.02)


@pytest.mark.parametrize("version", ["1.2", 2, True])
def test_a_wrong_version_says_what_is_legal(version):
    with pytest.raises(ConfigError, match=r"is not one of 1\.1, 1\.0"):
        create_backbone("squeezenet", version=version)


def test_a_version_may_be_the_number_that_the_command_line_makes_of_it():
    assert create_backbone("squeezenet", version=1.0).features[0].out_channels == 96
