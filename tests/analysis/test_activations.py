"""What is seen of a network's modules: in which order, under which names, and before anything overwrites it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidssl import create_backbone, list_backbones
from vidssl.analysis.activations import ROOT, Activations, choose_modules, evaluating
from vidssl.analysis.cka import compare, gram
from vidssl.errors import ConfigError


class Odd(nn.Module):
    """Defined in another order than called; overwrites; calls twice; returns what is no tensor of clips."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True))
        self.both = Pair()
        self.whole, self.counts, self.idle = Whole(), Counts(), nn.Linear(2, 2)

    def forward(self, x):
        y = self.inner(x)
        y = self.inner(y)
        y += 100  # what the hooks saw must not follow
        self.both(y)
        self.whole(y)
        self.counts(y)
        return self.last(y)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Whole(nn.Module):
    def forward(self, x):
        return x.mean(0)


class Counts(nn.Module):
    def forward(self, x):
        return x.argmax(1)


def look(network: nn.Module, x: torch.Tensor, modules="all", reduce=torch.clone) -> Activations:
    with evaluating(network), Activations(network, choose_modules(network, modules), reduce) as seen:
        network(x)
    return seen


def test_names_follow_the_order_of_completion_and_values_are_those_before_they_were_overwritten():
    torch.manual_seed(0)
    network, x = Odd(), torch.randn(5, 6)
    seen = look(network, x)
    calls = ["inner.0", "inner.1", "inner", "inner.0#2", "inner.1#2", "inner#2"]
    assert seen.names == [*calls, "last", ROOT]
    with torch.no_grad():
        first = network.inner[0](x)
        second = network.inner[0](first.clone().relu())
        for name, expected in {
            "inner.0": first,
            "inner.1": first.clone().relu(),
            "inner.0#2": second,
            "inner#2": second.clone().relu(),
            ROOT: network.last(second.clone().relu() + 100),
        }.items():
            torch.testing.assert_close(seen.values[name], expected)
    grams = look(network, x, reduce=gram).values
    torch.testing.assert_close(grams["inner.0#2"], gram(second), rtol=1e-5, atol=1e-5)


def test_modules_without_a_tensor_of_clips_are_named():
    seen = look(Odd(), torch.randn(5, 6))
    reasons = seen.all_left_out()
    assert set(reasons) == {"both", "whole", "counts", "idle"}
    assert "tuple" in reasons["both"]
    assert "[6]" in reasons["whole"]
    assert "int64" in reasons["counts"]
    assert "not call" in reasons["idle"]
    network = Odd()
    with pytest.raises(ConfigError, match=r"CKA of no layers.*both"):
        compare(network, network, [torch.randn(5, 6)], ["both"])


def test_hooks_and_modes_are_as_before_even_after_an_error():
    network = Odd()
    network.inner.eval()
    network.last = nn.Linear(7, 3)  # cannot take what comes
    with pytest.raises(RuntimeError):
        compare(network, network, [torch.randn(5, 6)], "all")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert network.training
    assert not network.inner.training
    assert torch.is_grad_enabled()


def test_choices():
    network = Odd()
    assert [*choose_modules(network, "leaves")] == [
        "last",
        "inner.0",
        "inner.1",
        "both",
        "whole",
        "counts",
        "idle",
    ]
    assert len(choose_modules(network, "all")) == len(list(network.modules()))
    assert [*choose_modules(network, ["inner.1", "last"])] == ["last", "inner.1"]
    with pytest.raises(ConfigError, match=r"'inner.11'.*Did you mean 'inner.1'"):
        choose_modules(network, ["inner.11"])
    with pytest.raises(ConfigError, match=r"'block'.*Did you mean 'blocks'"):
        choose_modules(network, "block")
    with pytest.raises(ConfigError, match=r"names no blocks.*its `backbone`"):
        choose_modules(network, "blocks")
    with pytest.raises(ConfigError, match="empty list"):
        choose_modules(network, [])


def test_all_modules_of_r21d_but_lists_that_are_never_called():
    network = create_backbone("r21d")
    seen = look(network, torch.rand(1, 3, 16, 16, 16), reduce=torch.Tensor.numel)
    assert set(seen.all_left_out()) == {f"conv{stage}.blocks" for stage in (2, 3, 4, 5)}
    assert len(seen.names) == len(list(network.modules())) - 4
    assert seen.names[-2:] == ["conv5", ROOT]


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_shows_all_its_blocks(name):
    with torch.device("meta"):  # shapes and calls, no figures
        backbone = create_backbone(name)
        seen = look(backbone, torch.rand(2, 3, 16, 112, 112), "blocks", torch.Tensor.numel)
    assert not seen.all_left_out()
    assert sorted(seen.names) == sorted(backbone.taps)
