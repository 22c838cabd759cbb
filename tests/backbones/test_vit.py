"""ViT against VideoMAE's golden outputs, its published figures, and plain formulas."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vidssl.backbones import create_backbone
from vidssl.backbones.base import num_parameters
from vidssl.backbones.vit import Attention, ViT, sin_cos_positions
from vidssl.errors import ConfigError

from .golden import digest, fill, formula_clip


def on_meta(**options):
    with torch.device("meta"):
        return ViT(**options).eval()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ViT(size="small").double().eval()


@pytest.mark.parametrize("norm", ["tokens", "mean"])
@pytest.mark.parametrize(
    ("size", "parameters", "gmac", "feature", "norms"),
    [
        ("small", 21_879_936, 9.971, 384, 25),
        ("base", 86_227_200, 36.589, 768, 25),
        ("large", 303_860_736, 126.55, 1024, 49),
    ],
)
def test_published_counts(size, norm, parameters, gmac, feature, norms):
    net = on_meta(size=size, norm=norm)
    with FlopCounterMode(display=False) as counter:
        out = net(torch.empty(1, 3, 16, 112, 112, device="meta"))
    assert num_parameters(net) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=1e-3)
    assert out.shape == (1, feature, 8, 7, 7)
    assert net.feature_dim == feature
    layer_norms = [m for m in net.modules() if isinstance(m, nn.LayerNorm)]
    assert len(layer_norms) == norms
    assert {m.eps for m in layer_norms} == {1e-6}
    assert {block.attn.heads for block in net.blocks} == {feature // 64}  # no count sees the heads


def test_default_is_base():
    net = on_meta()
    assert net.feature_dim == 768
    assert net.stride == (2, 16, 16)
    assert [block.drop_path.p for block in net.blocks] == [0.0] * 12


BLOCK_KEYS = [
    *("norm1.weight", "norm1.bias", "attn.q_bias", "attn.v_bias", "attn.qkv.weight", "attn.proj.weight"),
    *("attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight"),
    "mlp.fc2.bias",
]


@pytest.mark.parametrize(("norm", "last"), [("tokens", "norm"), ("mean", "fc_norm")])
def test_key_names_are_videomaes_and_hold_no_positions_and_no_bias_of_keys(norm, last):
    keys = ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    keys += [f"blocks.{block}.{key}" for block in range(12) for key in BLOCK_KEYS]
    keys += [f"{last}.weight", f"{last}.bias"]
    assert list(on_meta(size="small", norm=norm).state_dict()) == keys
    assert [ViT.rename_public(key) for key in keys] == keys


GOLDEN = {
    "tokens": [
        0.29516308041060246,
        1.056601368271104,
        0.6959591052689653,
        0.4675351007332837,
        0.5994375962392644,
        1.0843572524187692,
        -0.030092782150702255,
        -1.193517456050173,
    ],
    "mean": [
        0.29516303482294465,
        1.0566147753260724,
        0.6959605555365869,
        0.4675355030951443,
        0.5994446968051478,
        1.0843700095620483,
        -0.030099918483995205,
        -1.193540345546369,
    ],
}


@pytest.mark.parametrize("norm", GOLDEN)
def test_golden_output(norm):
    # VideoMAE's own classes (MCG-NJU/VideoMAE: the encoder of modeling_pretrain.py with every token visible, and
    # modeling_finetune.py up to its head) gave these with the same weights and clip: equal to 1e-15.
    net = ViT(size="small", norm=norm).double().eval()
    fill(net)
    with torch.no_grad():
        feature_D = net.pooled(formula_clip(1, 3, 16, 32, 32))[0]
    assert digest(feature_D) == pytest.approx(GOLDEN[norm], rel=1e-9)


def test_positions_are_the_published_formula():
    table_ND = sin_cos_positions(400, 384)
    assert table_ND.dtype == torch.float32
    assert table_ND[0, :4].tolist() == [0.0, 1.0, 0.0, 1.0]
    for position, feature in [(1, 0), (1, 1), (5, 8), (391, 2), (391, 3), (399, 383)]:
        angle = position / 10000 ** (2 * (feature // 2) / 384)
        expected = math.cos(angle) if feature % 2 else math.sin(angle)
        assert table_ND[position, feature].item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_tokens_count_along_width_then_height_then_time(net):
    clip = torch.rand(2, 3, 4, 48, 32, dtype=torch.float64)
    with torch.no_grad():
        patches_BDTHW = net.patch_embed.proj(clip)
        tokens_BND = net.embed(clip)
    assert tokens_BND.shape == (2, 2 * 3 * 2, 384)
    table_ND = sin_cos_positions(12, 384).double()
    for t, h, w in [(0, 0, 1), (0, 2, 0), (1, 0, 0), (1, 1, 1)]:
        number = (t * 3 + h) * 2 + w
        assert torch.equal(tokens_BND[:, number], patches_BDTHW[:, :, t, h, w] + table_ND[number])


def test_the_map_puts_every_token_back_in_its_place(net):
    clip = torch.rand(2, 3, 4, 48, 32, dtype=torch.float64)
    with torch.no_grad():
        tokens_BND = net.encode(net.embed(clip))
        map_BDTHW = net(clip)
    assert map_BDTHW.shape == (2, 384, 2, 3, 2)
    for t, h, w in [(0, 0, 1), (0, 2, 0), (1, 0, 0), (1, 1, 1)]:
        assert torch.equal(map_BDTHW[:, :, t, h, w], tokens_BND[:, (t * 3 + h) * 2 + w])


def test_encode_takes_any_subset_and_knows_no_place_of_its_own(net):
    with torch.no_grad():
        tokens_BND = net.embed(torch.rand(2, 3, 4, 48, 32, dtype=torch.float64))
        some = tokens_BND[:, [7, 2, 9]]
        assert net.encode(some).shape == (2, 3, 384)
        assert torch.allclose(net.encode(some), net.encode(tokens_BND[:, [2, 7, 9]])[:, [1, 0, 2]], atol=1e-12)
        assert not torch.allclose(net.encode(some), net.encode(tokens_BND)[:, [7, 2, 9]], atol=1e-3)


def test_attention_is_softmax_of_scaled_products_with_a_bias_of_queries_and_values():
    torch.manual_seed(0)
    attention = Attention(24, heads=3).double()
    nn.init.normal_(attention.q_bias)
    nn.init.normal_(attention.v_bias)
    x_BMD = torch.randn(2, 5, 24, dtype=torch.float64)
    q, k, v = (x_BMD @ weight.T for weight in attention.qkv.weight.chunk(3))
    q, v = q + attention.q_bias, v + attention.v_bias
    heads = []
    for part in torch.arange(24).chunk(3):
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(8)
        heads.append(scores.softmax(-1) @ v[..., part])
    expected = torch.cat(heads, -1) @ attention.proj.weight.T + attention.proj.bias
    assert torch.allclose(attention(x_BMD), expected, atol=1e-12)


def test_what_is_pooled_with_each_norm():
    torch.manual_seed(0)
    clip = torch.rand(2, 3, 2, 32, 32)
    tokens, mean = ViT(size="small").eval(), ViT(size="small", norm="mean").eval()
    with torch.no_grad():
        map_BDTHW = tokens(clip)
        assert torch.allclose(map_BDTHW.mean(1), torch.zeros(2, 1, 2, 2), atol=1e-5)
        assert torch.allclose(map_BDTHW.var(1, correction=0), torch.ones(2, 1, 2, 2), atol=1e-3)
        assert torch.equal(tokens.pooled(clip), map_BDTHW.mean((2, 3, 4)))

        map_BDTHW = mean(clip)
        assert not torch.allclose(map_BDTHW.var(1, correction=0), torch.ones(2, 1, 2, 2), atol=1e-2)
        feature_BD = mean.pooled(clip)
        assert torch.equal(feature_BD, mean.fc_norm(map_BDTHW.mean((2, 3, 4))))
        assert torch.allclose(feature_BD.var(1, correction=0), torch.ones(2), atol=1e-3)


def test_start_is_videomaes():
    torch.manual_seed(0)
    pretraining, finetuned = ViT(size="small"), ViT(size="small", norm="mean")
    bound = math.sqrt(6 / (384 + 3 * 384))  # Xavier, over queries, keys and values together
    for net, largest, deviation in [(pretraining, bound, bound / math.sqrt(3)), (finetuned, 0.12, 0.02)]:
        weight = net.blocks[3].attn.qkv.weight
        assert weight.abs().max() <= largest
        assert weight.std().item() == pytest.approx(deviation, rel=0.01)
        for name, parameter in net.named_parameters():
            if name.endswith("bias") and not name.startswith("patch_embed"):
                assert not parameter.any(), name
    # the embedding is a convolution, which VideoMAE leaves at torch's own start
    assert pretraining.patch_embed.proj.weight.abs().max().item() == pytest.approx(1 / math.sqrt(3 * 512), rel=1e-3)


def test_drop_path_rises_linearly_and_is_off_in_eval():
    torch.manual_seed(0)
    dropped = ViT(size="small", drop_path=0.22)
    assert [block.drop_path.p for block in dropped.blocks] == pytest.approx([0.02 * block for block in range(12)])
    plain = ViT(size="small")
    plain.load_state_dict(dropped.state_dict())
    clip = torch.rand(4, 3, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(dropped.eval()(clip), plain.eval()(clip))
        assert not torch.allclose(dropped.train()(clip), plain(clip))


@pytest.mark.parametrize(
    ("clip", "last_map"),
    [((2, 16, 16), (1, 1, 1)), ((4, 112, 112), (2, 7, 7)), ((32, 112, 112), (16, 7, 7)), ((16, 128, 160), (8, 8, 10))],
)
def test_map_shapes(clip, last_map):
    assert on_meta(size="small")(torch.empty(1, 3, *clip, device="meta")).shape == (1, 384, *last_map)


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        ((15, 112, 112), "15 frames; legal: multiples of 2 from 2 on"),
        ((16, 100, 112), "100 pixels of height; legal: multiples of 16 from 16 on"),
        ((16, 112, 8), "8 pixels of width"),
    ],
)
def test_a_clip_that_tubelets_do_not_divide_says_what_is_legal(clip, words):
    net = on_meta(size="small")
    for way in (net, net.embed):
        with pytest.raises(ConfigError, match=words):
            way(torch.empty(1, 3, *clip, device="meta"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "huge"}, "base, large, small"),
        ({"norm": "token"}, "mean, tokens"),
        ({"drop_path": 1}, "from 0 to below 1"),
        ({"drop_path": -0.1}, "from 0 to below 1"),
    ],
)
def test_wrong_options_say_what_is_legal(options, words):
    with pytest.raises(ConfigError, match=words):
        create_backbone("vit", **options)
