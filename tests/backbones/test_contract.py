"""What every backbone promises, tried on all of them; and the published counts of all of them in one table."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth

import vidssl
from vidssl.backbones import BACKBONES, create_backbone, list_backbones
from vidssl.backbones.base import INPUTS, Backbone, num_parameters
from vidssl.errors import ConfigError


class Fact(NamedTuple):
    """Parameters without classifier, GMAC at 16x112x112, last map there, batch or layer norms; of the references."""

    name: str
    options: dict[str, Any]
    parameters: int
    gmac: float
    last_map: tuple[int, ...]
    norms: int


FACTS = [
    Fact("shufflenet", {}, 3_606_288, 0.513, (1920, 1, 4, 4), 49),
    Fact("shufflenet", {"width": 0.5}, 257_172, 0.072, (480, 1, 4, 4), 49),
    Fact("shufflenet", {"width": 1.0}, 944_904, 0.187, (960, 1, 4, 4), 49),
    Fact("shufflenet", {"width": 1.5}, 2_060_316, 0.328, (1440, 1, 4, 4), 49),
    Fact("squeezenet", {}, 1_837_760, 0.898, (512, 1, 4, 4), 25),
    Fact("squeezenet", {"version": "1.0"}, 1_931_968, 5.637, (512, 1, 4, 4), 25),
    Fact("mobilenet", {}, 2_354_048, 0.518, (1280, 1, 4, 4), 52),
    Fact("mobilenet", {"width": 0.45}, 631_234, 0.157, (1280, 1, 4, 4), 52),
    Fact("mobilenet_v1", {}, 3_297_984, 0.232, (1024, 1, 4, 4), 27),
    Fact("mobilenet_v1", {"width": 2.0}, 12_875_136, 0.645, (2048, 1, 4, 4), 27),
    Fact("c3d", {}, 27_661_440, 38.497, (512, 2, 7, 7), 8),
    Fact("r3d", {}, 14_361_792, 19.887, (512, 2, 7, 7), 12),
    Fact("r3d", {"blocks": 2}, 33_166_272, 40.696, (512, 2, 7, 7), 20),
    Fact("r21d", {}, 14_365_303, 21.362, (512, 2, 7, 7), 24),
    Fact("r21d", {"blocks": 2}, 33_178_423, 42.171, (512, 2, 7, 7), 40),
    Fact("videoswin", {}, 27_850_470, 11.363, (768, 8, 4, 4), 29),
    Fact("videoswin", {"size": "small"}, 49_509_078, 21.103, (768, 8, 4, 4), 53),
    Fact("videoswin", {"size": "base"}, 87_638_984, 35.894, (1024, 8, 4, 4), 53),
    Fact("vit", {"size": "small"}, 21_879_936, 9.971, (384, 8, 7, 7), 25),
    Fact("vit", {}, 86_227_200, 36.589, (768, 8, 7, 7), 25),
    Fact("vit", {"size": "large"}, 303_860_736, 126.55, (1024, 8, 7, 7), 49),
    Fact("vit", {"norm": "mean"}, 86_227_200, 36.589, (768, 8, 7, 7), 25),
    Fact("vit", {"size": "small", "norm": "mean"}, 21_879_936, 9.971, (384, 8, 7, 7), 25),
    Fact("r3d_18", {}, 33_166_272, 40.696, (512, 2, 7, 7), 20),
    Fact("mc3_18", {}, 11_490_240, 43.342, (512, 16, 7, 7), 20),
    Fact("r2plus1d_18", {}, 31_300_125, 40.519, (512, 2, 7, 7), 37),
    Fact("r3d_18_hara", {}, 33_203_904, 8.308, (512, 1, 4, 4), 20),
    Fact("r3d_18_hara", {"shortcut": "A"}, 33_030_080, 8.296, (512, 1, 4, 4), 17),
]

# One row a name, at the least cost that still is the network.
SMALL: dict[str, dict[str, Any]] = {
    "shufflenet": {"width": 0.5},
    "mobilenet": {"width": 0.25},
    "mobilenet_v1": {"width": 0.25},
    "vit": {"size": "small"},
}
CLIP = (8, 32, 32)


@cache
def _built(name: str) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, **SMALL.get(name, {}))


def small(name: str) -> Backbone:
    return copy.deepcopy(_built(name))  # a tenth of the time of drawing its weights


@pytest.fixture(params=list_backbones())
def net(request: pytest.FixtureRequest) -> Backbone:
    return small(request.param)


def label(fact: Fact) -> str:
    return " ".join([fact.name, *(f"{key}={value}" for key, value in fact.options.items())])


@pytest.mark.parametrize("fact", FACTS, ids=label)
def test_parameters_cost_map_and_norms_are_the_published_ones(fact):
    with torch.device("meta"):
        net = create_backbone(fact.name, **fact.options).eval()
        with FlopCounterMode(display=False) as counter:
            made = net(torch.rand(1, 3, 16, 112, 112))
    assert num_parameters(net) == fact.parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(fact.gmac, rel=0.005)
    assert made.shape[1:] == fact.last_map
    assert net.feature_dim == fact.last_map[0]
    assert sum(isinstance(m, nn.BatchNorm3d | nn.LayerNorm) for m in net.modules()) == fact.norms


def test_the_table_of_facts_has_every_name_and_variant():
    rows = {label(fact) for fact in FACTS}
    missing = []
    for name in list_backbones():
        variants = [{}, *BACKBONES.get(name).variants]
        missing += [label(Fact(name, v, 0, 0, (), 0)) for v in variants if name != "s3d"]
    assert set(missing) <= rows
    # S3D's published cost is that of 224 pixels
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = create_backbone("s3d").eval()
        assert net(torch.rand(1, 3, 16, 224, 224)).shape == (1, 1024, 2, 7, 7)
    assert counter.get_total_flops() / 2e9 == pytest.approx(17.979, rel=0.005)
    assert num_parameters(net) == 7_910_048


def test_every_class_says_whose_definition_it_is(net):
    assert "20" in net.origin, "no year"
    assert "torchvision" in net.origin or "/" in net.origin
    assert net.public_input in INPUTS
    assert len(net.stride) == 3
    assert isinstance(net, Backbone)
    assert not any(isinstance(m, nn.Linear) and m.out_features == 400 for m in net.modules()), "a classifier is inside"


def test_the_gradient_reaches_every_parameter_from_a_batch(net):
    # of four, because batch norm makes plus and minus one of two values, whatever they were
    out = net.train()(torch.rand(4, 3, *CLIP))
    (out * torch.rand_like(out)).sum().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_eval_is_deterministic_and_clips_do_not_see_each_other(net):
    net.eval()
    x = torch.rand(2, 3, *CLIP)
    with torch.no_grad():
        both, again, one = net(x), net(x), net(x[1:])
    assert torch.equal(both, again)
    assert torch.allclose(both[1:], one, rtol=1e-3, atol=1e-4)


def test_pooled_is_one_vector_a_clip_and_the_mean_of_the_map(net):
    net.eval()
    x = torch.rand(2, 3, *CLIP)
    with torch.no_grad():
        assert net.pooled(x).shape == (2, net.feature_dim)
        assert torch.allclose(net.pooled(x), net(x).mean(dim=(2, 3, 4)), atol=1e-5)


@pytest.mark.parametrize("name", list_backbones())
def test_the_map_shrinks_by_the_stride(name):
    with torch.device("meta"):
        net = create_backbone(name)
        for size in (64, 96):
            shape = net(torch.rand(2, 3, 16, size, size)).shape
            assert shape[2:] == tuple(-(-a // b) for a, b in zip((16, size, size), net.stride, strict=True))


def test_bfloat16_runs_forwards_and_backwards(net):
    x = torch.rand(2, 3, *CLIP, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = net.train()(x)
    out.float().square().mean().backward()
    assert out.isfinite().all()
    # not the weights' own: oneDNN leaves those of 3D convolutions over two frames undefined in bf16 (NOTES.md)
    assert x.grad.isfinite().all()
    assert all(p.grad.shape == p.shape for p in net.parameters())
    net.eval()
    with torch.no_grad():
        wanted = net(x).flatten(1)
        with torch.autocast("cpu", torch.bfloat16):
            made = net(x).float().flatten(1)
    assert torch.cosine_similarity(wanted, made).min() > 0.98


def test_channels_last_gives_the_same(net):
    net.eval()
    x = torch.rand(2, 3, *CLIP)
    with torch.no_grad():
        wanted = net(x)
        turned = net.to(memory_format=torch.channels_last_3d)
        made = turned(x.contiguous(memory_format=torch.channels_last_3d))
    assert torch.allclose(wanted, made, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


def test_the_state_dict_goes_round(net):
    other = small(next(name for name in list_backbones() if BACKBONES.get(name) is type(net)))
    for p in other.parameters():
        nn.init.constant_(p, 0.1)
    other.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, *CLIP)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), other.eval()(x))


def test_taps_are_modules_that_run_once_and_in_order(net):
    seen = []
    for name in net.taps:
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: seen.append((name, o)))
    with torch.no_grad():
        net.eval()(torch.rand(2, 3, *CLIP))
    assert tuple(name for name, _ in seen) == net.taps
    assert all(isinstance(out, torch.Tensor) and len(out) == 2 for _, out in seen)
    assert len(net.taps) >= 5


def test_the_smallest_clip_goes_through_and_less_is_refused_with_what_is_legal(net):
    net.eval()
    least = tuple(-(-a // b) * b for a, b in zip(net.smallest, net.multiple, strict=True))
    with torch.no_grad():
        assert net(torch.rand(1, 3, *least)).shape[1] == net.feature_dim
    for axis, key in enumerate(("data.frames", "data.size", "data.size")):
        short = list(least)
        short[axis] = least[axis] - 1
        with pytest.raises(ConfigError, match=rf"legal: .*{least[axis]}.*{key}"):
            net(torch.rand(1, 3, *short))


def test_the_input_is_scaled_where_it_is_asked_for(net):
    net.eval()
    x = torch.rand(1, 3, *CLIP)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in INPUTS["imagenet"])
    with torch.no_grad():
        wanted = net((x - mean) / std)
        net.set_input("imagenet")
        assert torch.equal(net(x), wanted)
    assert not any("input" in key for key in net.state_dict())


def compiled_is_the_same(name: str) -> None:
    net = small(name).double().train()
    for module in net.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # compiled, it draws its random numbers in another order
    least = tuple(max(16 if axis == 0 else 32, size) for axis, size in enumerate(net.smallest))
    x = torch.rand(4, 3, *least, dtype=torch.float64)  # of four: see the gradients above
    probe, results = None, []
    for call in (net, torch.compile(net)):
        out = call(x)
        probe = torch.rand_like(out) if probe is None else probe
        results.append([out, *torch.autograd.grad(out, list(net.parameters()), probe)])
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(*results, strict=True))


@pytest.mark.slow
def test_a_small_net_compiled_is_the_same():
    compiled_is_the_same("c3d")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_backbones() if name != "c3d"])
def test_compiled_is_the_same(name):
    compiled_is_the_same(name)


@pytest.mark.parametrize("name", list_backbones())
def test_an_unknown_option_names_the_nearest(name):
    with pytest.raises(ConfigError, match=r"unknown key 'backbone.inputt'.*'backbone.input'"):
        create_backbone(name, inputt="unit")
    with pytest.raises(ConfigError, match=r"imagnet.*Did you mean 'imagenet'"):
        create_backbone(name, input="imagnet")


def test_the_package_offers_them():
    assert "r21d" in vidssl.list_backbones()
    assert vidssl.create_backbone("squeezenet").feature_dim == 512
