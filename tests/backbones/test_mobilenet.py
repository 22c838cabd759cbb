"""MobileNet V2 and V1 in 3D against their published figures and the reference's output."""

import pytest
import torch
from torch import nn

from vidssl.backbones import create_backbone
from vidssl.backbones.base import num_parameters
from vidssl.backbones.mobilenet import InvertedResidual
from vidssl.errors import ConfigError

from .golden import digest, fill_as_executed, formula_clip


@pytest.mark.parametrize(
    ("name", "width", "parameters", "feature"),
    [
        ("mobilenet", 1.0, 2_354_048, 1280),
        ("mobilenet", 0.45, 631_234, 1280),  # the last layer keeps its width below 1 ...
        ("mobilenet", 1.4, 4_470_948, 1792),  # ... and grows above
        ("mobilenet_v1", 1.0, 3_297_984, 1024),
        ("mobilenet_v1", 2.0, 12_875_136, 2048),
    ],
)
def test_counts_of_the_reference(name, width, parameters, feature):
    with torch.device("meta"):
        net = create_backbone(name, width=width)
    assert num_parameters(net) == parameters
    assert net.feature_dim == feature


def test_key_names_are_the_original_ones():
    keys = list(create_backbone("mobilenet").state_dict())
    assert keys[0] == "features.0.0.weight"
    assert {"features.1.conv.0.weight", "features.2.conv.3.weight", "features.17.conv.7.running_var"} <= set(keys)
    assert "features.1.conv.6.weight" not in keys  # the first block does not expand
    assert keys[-1] == "features.18.1.num_batches_tracked"
    old = list(create_backbone("mobilenet_v1", width=0.25).state_dict())
    assert {"features.0.1.weight", "features.1.conv1.weight", "features.12.bn2.bias"} <= set(old)


def test_blocks_add_their_input_only_where_shapes_agree():
    net = create_backbone("mobilenet")
    blocks = [block for block in net.features if isinstance(block, InvertedResidual)]
    assert [b.residual for b in blocks] == [bool(n) for n in (0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0)]
    assert not any(isinstance(block.conv[-1], nn.ReLU6) for block in blocks)  # linear bottlenecks


@pytest.mark.parametrize(("frames", "out_frames"), [(4, 1), (8, 1), (12, 1), (16, 1), (32, 2)])
@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_v1"])
def test_map_shapes(name, frames, out_frames):
    with torch.device("meta"):
        net = create_backbone(name).eval()
        for size, out in ((96, 3), (112, 4), (128, 4), (224, 7)):
            shape = net(torch.rand(1, 3, frames, size, size)).shape
            assert shape == (1, net.feature_dim, out_frames, out, out)


def test_initial_weights_have_the_originals_spread():
    torch.manual_seed(0)
    net = create_backbone("mobilenet")
    assert net.features[0][0].weight.std().item() == pytest.approx((2 / (27 * 32)) ** 0.5, rel=0.05)
    assert net.features[18][0].weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.01)


# Made with the reference's classes (okankop/Efficient-3DCNNs) given the same weights and clip: bit-equal maps.
GOLDEN = {
    "mobilenet": [0.599122853755033, 0.9097587376837496, 0.0, 2.6492611674604203, 0.4168921368869489, 0.0, 0.0,
                  1.1631377870948507],
    "mobilenet_v1": [12103.523750173072, 15837.475437063214, 5396.290858139184, 26075.084181708582, 36479.980895322224,
                     31355.72303341276, 12019.001761053603, 0.0],
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_output(name):
    net = create_backbone(name).double().eval()
    clip = formula_clip(1, 3, 16, 64, 64)
    fill_as_executed(net, clip)
    if name == "mobilenet_v1":  # with the formula's means every ReLU of the last layer is off
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.zero_()
    with torch.no_grad():
        assert digest(net.pooled(clip)[0]) == pytest.approx(GOLDEN[name], rel=1e-9)


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_v1"])
@pytest.mark.parametrize("width", [0, 0.01, 9])
def test_a_width_out_of_range_says_what_is_legal(name, width):
    with pytest.raises(ConfigError, match=rf"{name}: width={width}.* is outside 0.03125 to 8; usual"):
        create_backbone(name, width=width)
