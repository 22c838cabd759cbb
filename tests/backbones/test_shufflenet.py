"""ShuffleNet V1 3D against its published figures, its golden output, and its own plain formulation."""

import pytest
import torch
import torch.nn.functional as F

from vidssl.backbones import create_backbone
from vidssl.backbones.base import num_parameters
from vidssl.backbones.shufflenet import ShuffleNet, shuffle
from vidssl.errors import ConfigError

from .golden import fill, formula_clip


@pytest.mark.parametrize(
    ("width", "groups", "parameters", "feature"),
    [(0.5, 3, 257_172, 480), (1.0, 3, 944_904, 960), (1.5, 3, 2_060_316, 1440), (2.0, 3, 3_606_288, 1920)],
)
def test_published_counts(width, groups, parameters, feature):
    net = ShuffleNet(width=width, groups=groups)
    assert num_parameters(net) == parameters
    assert net.feature_dim == feature
    # "400" in the fact sheet: with a 400-way linear layer
    assert parameters + 400 * (feature + 1) == {480: 449_572, 960: 1_329_304, 1440: 2_636_716, 1920: 4_374_688}[feature]


def test_defaults_are_the_benchmarks():
    net = create_backbone("shufflenet")
    assert num_parameters(net) == 3_606_288
    assert net.stride == (16, 32, 32)
    assert net.conv1[0].out_channels == 48
    assert net.layer1[0].conv1.groups == 3  # grouped at 2.0x ...
    assert ShuffleNet(width=1.0).layer1[0].conv1.groups == 1  # ... and not at 1.0x, where the stem has 24 channels


def test_key_names_are_the_original_ones():
    keys = list(ShuffleNet().state_dict())
    assert keys[:2] == ["conv1.0.weight", "conv1.1.weight"]
    assert "layer1.0.conv1.weight" in keys
    assert "layer2.7.bn3.running_var" in keys
    assert "layer3.3.conv3.weight" in keys
    assert len(keys) == 49 * 6


def test_golden_output():
    # Made with the reference's classes (okankop/Efficient-3DCNNs) given the same weights and clip: equal to 1e-12.
    net = ShuffleNet(width=0.5).double().eval()
    fill(net)
    with torch.no_grad():
        feature = net.pooled(formula_clip(1, 3, 16, 64, 64))[0]
    assert feature.mean().item() == pytest.approx(700.7426867620301, rel=1e-9)
    assert feature.std().item() == pytest.approx(778.7063405159348, rel=1e-9)
    few = [168.99482787881925, 204.34640727692684, 1383.835849446577, 191.70275945626588, 2347.683159923566, 0.0]
    assert feature[:360:60].tolist() == pytest.approx(few, rel=1e-9)


@pytest.mark.parametrize(("frames", "out_frames"), [(4, 1), (8, 1), (12, 1), (16, 1), (32, 2)])
@pytest.mark.parametrize(("size", "out_size"), [(32, 1), (64, 2), (96, 3), (112, 4), (128, 4)])
def test_map_shapes(frames, out_frames, size, out_size):
    net = ShuffleNet(width=0.5).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 3, frames, size, size)).shape == (1, 480, out_frames, out_size, out_size)


def test_an_even_clip_is_pooled_without_extension():
    unit = ShuffleNet(width=0.5).layer1[0].eval()
    x = torch.rand(2, 12, 6, 8, 8)
    shortcut = unit(x)[:, -12:]
    assert torch.equal(shortcut, F.avg_pool3d(x, (2, 3, 3), 2, (0, 1, 1)))
    odd = unit(x[:, :, :5])[:, -12:]
    assert torch.equal(odd[:, :, :2], shortcut[:, :, :2])
    assert torch.allclose(odd[:, :, 2], F.avg_pool2d(x[:, :, 4], 3, 2, 1))


def plain_forward(net: ShuffleNet, x: torch.Tensor) -> torch.Tensor:
    """The network in the order the paper draws it, without any of the shortcuts taken for speed."""
    x = net.maxpool(F.relu(net.conv1[1](net.conv1[0](x))))
    for unit in [*net.layer1, *net.layer2, *net.layer3]:
        out = F.relu(unit.bn1(unit.conv1(x)))
        batch, channels, *rest = out.shape
        out = out.reshape(batch, net.groups, channels // net.groups, *rest).transpose(1, 2).reshape(out.shape)
        out = unit.bn2(F.conv3d(out, unit.conv2.weight, stride=unit.stride, padding=1, groups=channels))
        out = unit.bn3(unit.conv3(out))
        x = F.relu(out + x if unit.stride == 1 else torch.cat([out, F.avg_pool3d(x, (2, 3, 3), 2, (0, 1, 1))], 1))
    return x


@pytest.mark.parametrize("training", [False, True])
def test_the_fast_order_computes_the_same(training):
    net = ShuffleNet(width=0.5).double().train(training)
    x = torch.rand(3, 3, 16, 64, 64, dtype=torch.float64)
    fast, plain = net(x), plain_forward(net, x)
    assert torch.allclose(fast, plain, atol=1e-10)
    probe = torch.rand_like(fast)
    for a, b in zip(
        torch.autograd.grad(fast, list(net.parameters()), probe),
        torch.autograd.grad(plain, list(net.parameters()), probe),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-8, rtol=1e-6)


def test_the_shuffle_is_the_same_in_both_memory_layouts():
    y = torch.rand(2, 6, 2, 3, 3)
    assert torch.equal(shuffle(y, 3), shuffle(y.contiguous(memory_format=torch.channels_last_3d), 3))
    assert shuffle(torch.arange(6).view(1, 6, 1, 1, 1), 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 5}, "1, 2, 3, 4, 8"),
        ({"width": 0}, "above 0"),
        ({"width": "big"}, "not a number"),
        ({"width": 0.7}, "0.5, 0.75, 1.0"),
        ({"width": 1.5, "groups": 8}, "1.0, 2.0"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        create_backbone("shufflenet", **options)
