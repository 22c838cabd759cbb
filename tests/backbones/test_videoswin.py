"""VideoSwin against torchvision's network, the authors' key names and published figures."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import video

from vidssl.backbones import create_backbone
from vidssl.backbones.base import INPUTS, num_parameters
from vidssl.backbones.videoswin import VideoSwin
from vidssl.errors import ConfigError

from .golden import digest, fill, formula_clip


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return VideoSwin().eval()


def on_meta(**options):
    with torch.device("meta"):
        return VideoSwin(**options).eval()


@pytest.mark.parametrize(
    ("size", "parameters", "gmac", "feature", "norms"),
    [
        ("tiny", 27_850_470, 11.363, 768, 29),
        ("small", 49_509_078, 21.103, 768, 53),
        ("base", 87_638_984, 35.894, 1024, 53),
    ],
)
def test_published_counts(size, parameters, gmac, feature, norms):
    net = on_meta(size=size)
    with FlopCounterMode(display=False) as counter:
        out = net(torch.empty(1, 3, 16, 112, 112, device="meta"))
    assert num_parameters(net) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=5e-4)
    assert out.shape == (1, feature, 8, 4, 4)
    assert net.feature_dim == feature
    assert sum(isinstance(m, nn.LayerNorm) for m in net.modules()) == norms


def test_default_is_the_benchmarks():
    with torch.device("meta"):
        net = create_backbone("videoswin")
    assert num_parameters(net) == 27_850_470
    assert net.stride == (2, 32, 32)
    assert len(net.taps) == 1 + 12 + 3 + 1


def test_is_torchvisions_network_under_its_names(net):
    theirs = video.swin3d_t().eval()
    theirs.head = nn.Identity()
    assert list(net.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(net.state_dict())
    clip = torch.rand(2, 3, 8, 40, 72)
    maps_BTHWD = []
    theirs.norm.register_forward_hook(lambda module, args, out: maps_BTHWD.append(out))
    with torch.no_grad():
        feature_BD = theirs(clip)
        map_BDTHW = net(clip)
        assert torch.equal(map_BDTHW.permute(0, 2, 3, 4, 1), maps_BTHWD[0])
        assert torch.allclose(net.pooled(clip), feature_BD, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "build"), [("small", video.swin3d_s), ("base", video.swin3d_b)])
def test_other_sizes_have_torchvisions_names_and_shapes(size, build):
    with torch.device("meta"):
        theirs = build()
        theirs.head = nn.Identity()
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in on_meta(size=size).state_dict().items()} == shapes


def test_golden_output():
    # The authors' code (SwinTransformer/Video-Swin-Transformer, SwinTransformer3D with patch (2, 4, 4) and window
    # (8, 7, 7)) gave exactly these numbers with the same weights, loaded by `rename_public`, and the same clip. Nine
    # tokens a side: windows are padded, shifted in time and space, and clipped in the later stages.
    net = VideoSwin().double().eval()
    fill(net)
    with torch.no_grad():
        feature_D = net.pooled(formula_clip(1, 3, 18, 36, 36))[0]
    expected = [
        0.2997281725777024,
        1.0375597751278025,
        0.2420785320711156,
        -2.2138764537552045,
        0.7637087813242532,
        -0.716872365514526,
        1.118087835889496,
        0.27449771183074384,
    ]
    assert digest(feature_D) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("patch_embed.proj.weight", "patch_embed.proj.weight"),
        ("patch_embed.norm.bias", "patch_embed.norm.bias"),
        ("layers.0.blocks.1.norm1.weight", "features.0.1.norm1.weight"),
        ("layers.2.blocks.5.attn.relative_position_bias_table", "features.4.5.attn.relative_position_bias_table"),
        ("layers.3.blocks.0.attn.qkv.bias", "features.6.0.attn.qkv.bias"),
        ("layers.1.blocks.0.mlp.fc1.weight", "features.2.0.mlp.0.weight"),
        ("layers.1.blocks.0.mlp.fc2.bias", "features.2.0.mlp.3.bias"),
        ("layers.0.downsample.reduction.weight", "features.1.reduction.weight"),
        ("layers.2.downsample.norm.weight", "features.5.norm.weight"),
        ("norm.weight", "norm.weight"),
    ],
)
def test_the_authors_names_are_translated(net, theirs, ours):
    assert VideoSwin.rename_public(theirs) == ours
    assert ours in net.state_dict()


def test_torchvisions_names_pass(net):
    assert [VideoSwin.rename_public(key) for key in net.state_dict()] == list(net.state_dict())


def test_public_weights_were_trained_with_this_scaling():
    transform = video.Swin3D_T_Weights.DEFAULT.transforms()
    assert INPUTS[VideoSwin.public_input] == (tuple(transform.mean), tuple(transform.std))


@pytest.mark.parametrize(
    ("clip", "last_map"),
    [
        ((4, 112, 112), (2, 4, 4)),
        ((8, 112, 112), (4, 4, 4)),
        ((12, 112, 112), (6, 4, 4)),
        ((32, 112, 112), (16, 4, 4)),
        ((16, 96, 96), (8, 3, 3)),
        ((16, 128, 160), (8, 4, 5)),
        ((16, 224, 224), (8, 7, 7)),
        ((1, 1, 1), (1, 1, 1)),
        ((5, 33, 50), (3, 2, 2)),
    ],
)
def test_map_shapes(clip, last_map):
    assert on_meta()(torch.empty(1, 3, *clip, device="meta")).shape == (1, 768, *last_map)


@pytest.mark.parametrize(
    ("block", "tokens", "time_matters", "space_matters"),
    [
        ("features.0.1", (8, 28, 28), False, True),
        ("features.2.1", (8, 14, 14), False, True),
        ("features.4.1", (8, 7, 7), False, False),
        ("features.6.1", (8, 4, 4), False, False),
        ("features.2.1", (9, 14, 14), True, True),
    ],
)
def test_where_windows_shift_at_16x112x112(net, block, tokens, time_matters, space_matters):
    attention = net.get_submodule(block).attn
    x_BTHWC = torch.randn(1, *tokens, attention.qkv.in_features)

    def unshifted(*axes):
        kept = attention.shift_size
        attention.shift_size = [0 if axis in axes else shift for axis, shift in enumerate(kept)]
        out = attention(x_BTHWC)
        attention.shift_size = kept
        return out

    assert attention.shift_size == [4, 3, 3]
    with torch.no_grad():
        assert torch.equal(attention(x_BTHWC), unshifted(0)) is not time_matters
        assert torch.equal(attention(x_BTHWC), unshifted(1, 2)) is not space_matters


def test_a_clipped_window_reads_its_bias_from_the_start_of_the_index(net):
    attention = net.features[6][0].attn
    table = attention.relative_position_bias_table
    assert table.shape == (15 * 13 * 13, 24)
    bias_1HNN = attention.get_relative_position_bias([8, 4, 4])
    assert bias_1HNN.shape == (1, 24, 128, 128)
    # Token 7 is (0, 1, 3) in a window 4 wide, but the index knows windows 7 wide, where it is (0, 1, 0).
    entry = (7 * 13 + 6 + 1) * 13 + 6
    assert torch.equal(bias_1HNN[0, :, 7, 0], table[entry])
    assert not torch.equal(table[entry + 3], table[entry])


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, 0.1),
        ({"size": "small"}, 0.1),
        ({"size": "base"}, 0.3),
        ({"size": "base", "drop_path": 0.2}, 0.2),
        ({"drop_path": 0}, 0.0),
    ],
)
def test_drop_path_rises_to_the_authors_rate(options, last):
    rates = [m.stochastic_depth.p for m in on_meta(**options).modules() if hasattr(m, "stochastic_depth")]
    assert len(rates) == (24 if "size" in options else 12)
    assert rates == pytest.approx([last * block / (len(rates) - 1) for block in range(len(rates))])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "large"}, "base, small, tiny"),
        ({"drop_path": "big"}, "neither auto nor a number"),
        ({"drop_path": 1.0}, "from 0 to below 1"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        create_backbone("videoswin", **options)
