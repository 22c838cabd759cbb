"""R3D-18, MC3-18 and R(2+1)D-18 against torchvision's networks and their published figures."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import video

from vidssl.backbones.base import INPUTS, num_parameters
from vidssl.backbones.resnet18 import MC318, R3D18, R2Plus1D18

CASES = {
    R3D18: (video.r3d_18, video.R3D_18_Weights),
    MC318: (video.mc3_18, video.MC3_18_Weights),
    R2Plus1D18: (video.r2plus1d_18, video.R2Plus1D_18_Weights),
}


def on_meta(cls):
    with torch.device("meta"):
        return cls().eval()


@pytest.mark.parametrize(
    ("cls", "parameters", "gmac", "norms", "last_map"),
    [
        (R3D18, 33_166_272, 40.696, 20, (512, 2, 7, 7)),
        (MC318, 11_490_240, 43.342, 20, (512, 16, 7, 7)),
        (R2Plus1D18, 31_300_125, 40.519, 37, (512, 2, 7, 7)),
    ],
)
def test_published_counts(cls, parameters, gmac, norms, last_map):
    net = on_meta(cls)
    with FlopCounterMode(display=False) as counter:
        out = net(torch.empty(1, 3, 16, 112, 112, device="meta"))
    assert num_parameters(net) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=5e-4)
    assert sum(isinstance(m, nn.BatchNorm3d) for m in net.modules()) == norms
    assert out.shape == (1, *last_map)
    assert net.stride == tuple(
        -(-size // out_size) for size, out_size in zip((16, 112, 112), last_map[1:], strict=True)
    )
    assert net.feature_dim == 512


@pytest.mark.parametrize("cls", CASES)
def test_is_torchvisions_network_under_its_names(cls):
    net = cls().eval()
    theirs = CASES[cls][0]().eval()
    theirs.fc = nn.Identity()
    for tensor in theirs.state_dict().values():  # batch norm that does something
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.add_(torch.rand_like(tensor))
    assert list(net.state_dict()) == list(theirs.state_dict())
    net.load_state_dict(theirs.state_dict())
    maps = []
    theirs.layer4.register_forward_hook(lambda module, args, out: maps.append(out))
    clip = torch.rand(2, 3, 8, 32, 48)
    with torch.no_grad():
        feature_BD = theirs(clip)
        assert torch.equal(net(clip), maps[0])
        assert torch.allclose(net.pooled(clip), feature_BD, rtol=1e-5)


@pytest.mark.parametrize("cls", CASES)
def test_public_weights_were_trained_with_this_scaling(cls):
    transform = CASES[cls][1].DEFAULT.transforms()
    assert INPUTS[cls.public_input] == (tuple(transform.mean), tuple(transform.std))


@pytest.mark.parametrize(
    ("clip", "last_map"),
    [
        ((4, 112, 112), (1, 7, 7)),
        ((8, 112, 112), (1, 7, 7)),
        ((12, 112, 112), (2, 7, 7)),
        ((32, 112, 112), (4, 7, 7)),
        ((16, 96, 96), (2, 6, 6)),
        ((16, 128, 128), (2, 8, 8)),
        ((16, 224, 224), (2, 14, 14)),
        ((1, 1, 1), (1, 1, 1)),
        ((9, 17, 33), (2, 2, 3)),
    ],
)
def test_map_shapes(clip, last_map):
    x = torch.empty(1, 3, *clip, device="meta")
    assert on_meta(R3D18)(x).shape[2:] == last_map
    assert on_meta(R2Plus1D18)(x).shape[2:] == last_map
    assert on_meta(MC318)(x).shape[2:] == (clip[0], *last_map[1:])


@pytest.mark.parametrize("cls", [R3D18, R2Plus1D18])
def test_there_is_no_max_pool_and_stages_halve_time_and_space(cls):
    net = on_meta(cls)
    shapes = []
    for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
        net.get_submodule(name).register_forward_hook(lambda m, i, out: shapes.append(tuple(out.shape[2:])))
    net(torch.empty(1, 3, 16, 112, 112, device="meta"))
    assert shapes == [(16, 56, 56), (16, 56, 56), (8, 28, 28), (4, 14, 14), (2, 7, 7)]


def test_r2plus1d_middle_widths():
    net = on_meta(R2Plus1D18)
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    middle = [[(block.conv1[0][0].out_channels, block.conv2[0][0].out_channels) for block in stage] for stage in stages]
    assert net.stem[0].out_channels == 45
    # once a block: the second convolution of a stage's first block takes over the width of the first
    assert middle == [
        [(144, 144), (144, 144)],
        [(230, 230), (288, 288)],
        [(460, 460), (576, 576)],
        [(921, 921), (1152, 1152)],
    ]
    spatial, temporal = net.layer2[0].conv1[0][0], net.layer2[0].conv1[0][3]
    assert (spatial.kernel_size, spatial.stride) == ((1, 3, 3), (1, 2, 2))
    assert (temporal.kernel_size, temporal.stride) == ((3, 1, 1), (2, 1, 1))
