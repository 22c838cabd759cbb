"""The depthwise convolution is torch's own, forwards and backwards; only cheaper."""

import pytest
import torch
import torch.nn.functional as F

from vidssl.backbones.depthwise import DepthwiseConv3d, depthwise


def plain(conv: DepthwiseConv3d, x: torch.Tensor) -> torch.Tensor:
    return F.conv3d(x, conv.weight, stride=conv.stride, padding=1, groups=conv.groups)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 4, 5), (2, 3, 4), (3, 1, 2), (4, 5, 6), (5, 2, 1)])
@pytest.mark.parametrize("innermost", [True, False])
def test_it_is_torchs_convolution_and_so_are_its_gradients(stride, size, innermost):
    conv = DepthwiseConv3d(6, stride).double()
    x = torch.rand(3, 6, *size, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last_3d) if innermost else x
    x.requires_grad_()
    wanted, made = plain(conv, x), conv(x)
    assert made.grad_fn.name() == "GeneratedBackwardFor_vidssl_depthwise_defaultBackward"
    assert torch.allclose(wanted, made, atol=1e-12)
    probe = torch.rand_like(wanted)
    inputs = [x, conv.weight]
    for a, b in zip(torch.autograd.grad(wanted, inputs, probe), torch.autograd.grad(made, inputs, probe), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_the_operator_is_well_formed():
    x = torch.rand(2, 4, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(4, 1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    for stride in (1, 2):
        torch.library.opcheck(depthwise, (x, weight, stride))


def test_the_gradient_does_not_depend_on_the_number_of_threads():
    conv = DepthwiseConv3d(8, 1)
    x = torch.rand(5, 8, 4, 6, 6).contiguous(memory_format=torch.channels_last_3d)
    probe = torch.rand(5, 8, 4, 6, 6)
    threads = torch.get_num_threads()
    grads = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            grads.append(torch.autograd.grad(conv(x), conv.weight, probe)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*grads)


def test_without_a_gradient_or_in_bfloat16_it_is_torchs_own_call():
    conv = DepthwiseConv3d(6, 1)
    x = torch.rand(1, 6, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(conv(x), plain(conv, x))
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    assert "vidssl" not in out.grad_fn.name()


def test_compiled_it_is_one_piece():
    net = torch.nn.Sequential(DepthwiseConv3d(4, 1), torch.nn.ReLU(), DepthwiseConv3d(4, 2)).double()
    x = torch.rand(2, 4, 3, 5, 4, dtype=torch.float64)
    wanted, made = net(x), torch.compile(net, fullgraph=True)(x)
    assert torch.allclose(wanted, made, atol=1e-12)
    grads = [torch.autograd.grad(out.square().sum(), list(net.parameters())) for out in (wanted, made)]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*grads, strict=True))
