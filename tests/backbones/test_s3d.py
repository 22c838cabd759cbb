"""S3D against torchvision's network and its published figures."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import video

from vidssl.backbones.base import INPUTS, num_parameters
from vidssl.backbones.s3d import S3D
from vidssl.errors import ConfigError


@pytest.fixture(scope="module")
def meta_net():
    with torch.device("meta"):
        return S3D().eval()


def test_published_counts(meta_net):
    with FlopCounterMode(display=False) as counter:
        out = meta_net(torch.empty(1, 3, 16, 224, 224, device="meta"))
    assert num_parameters(meta_net) == 7_910_048
    assert counter.get_total_flops() / 2e9 == pytest.approx(17.979, abs=1e-3)
    assert out.shape == (1, 1024, 2, 7, 7)
    assert meta_net.stride == (8, 32, 32)
    assert meta_net.feature_dim == 1024


def test_is_torchvisions_network_under_its_names():
    torch.manual_seed(0)
    net, theirs = S3D().eval(), video.s3d().eval()
    bare = {key: tensor for key, tensor in theirs.state_dict().items() if not key.startswith("classifier.")}
    assert list(net.state_dict()) == list(bare)
    net.load_state_dict(bare)
    clip = torch.rand(2, 3, 8, 48, 64)
    with torch.no_grad():
        assert torch.equal(net(clip), theirs.features(clip))


def test_public_weights_were_trained_with_this_scaling():
    transform = video.S3D_Weights.DEFAULT.transforms()
    assert INPUTS[S3D.public_input] == (tuple(transform.mean), tuple(transform.std))


def test_batch_norm_keeps_the_authors_momentum_and_eps(meta_net):
    norms = [m for m in meta_net.modules() if isinstance(m, nn.BatchNorm3d)]
    assert {(m.eps, m.momentum) for m in norms} == {(0.001, 0.001)}


@pytest.mark.parametrize(
    ("clip", "last_map"),
    [
        ((5, 17, 17), (1, 1, 1)),
        ((8, 112, 112), (1, 3, 3)),
        ((12, 112, 112), (1, 3, 3)),
        ((16, 112, 112), (2, 3, 3)),
        ((32, 112, 112), (4, 3, 3)),
        ((16, 96, 96), (2, 3, 3)),
        ((16, 128, 128), (2, 4, 4)),
        # the clips whose map torchvision's fixed pool of 2x7x7 means, as `pooled` does; one more is another map
        ((13, 209, 209), (2, 7, 7)),
        ((20, 240, 240), (2, 7, 7)),
        ((12, 208, 241), (1, 6, 8)),
        ((21, 240, 240), (3, 7, 7)),
    ],
)
def test_map_shapes(meta_net, clip, last_map):
    assert meta_net(torch.empty(1, 3, *clip, device="meta")).shape[2:] == last_map


@pytest.mark.parametrize(
    ("clip", "words"),
    [((4, 112, 112), "4 frames; legal: 5 or more"), ((5, 16, 17), "16 pixels of height; legal: 17 or more")],
)
def test_too_small_a_clip_says_what_is_legal(meta_net, clip, words):
    with pytest.raises(ConfigError, match=words):
        meta_net(torch.empty(1, 3, *clip, device="meta"))
    with pytest.raises(RuntimeError):  # the limit is the architecture's own
        meta_net.feature_map(torch.empty(1, 3, *clip, device="meta"))
