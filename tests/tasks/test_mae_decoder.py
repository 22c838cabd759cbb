"""The two ways of rebuilding: VideoMAE's against its golden output and published figures, and that of feature maps."""

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vidssl import create_backbone, create_task, list_backbones
from vidssl.backbones.base import num_parameters
from vidssl.backbones.vit import ViT
from vidssl.tasks.base import ClipSpec
from vidssl.tasks.mae_decoder import MapReconstructor

from ..backbones.golden import digest, fill, formula_clip
from .masked import FakeBackbone, make, random_views, rebuild, short_vit

# VideoMAE


@pytest.mark.parametrize(
    ("size", "parameters", "gmac"),
    [("small", 24_029_376, 2.132), ("base", 94_210_944, 7.355), ("large", 317_782_016, 18.634)],
)
def test_published_counts(size, parameters, gmac):
    with torch.device("meta"):
        task = create_task("vmae", create_backbone("vit", size=size), ClipSpec(16, 112))
        cells = torch.arange(392).view(1, -1)
        with FlopCounterMode(display=False) as counter:
            rebuilt = rebuild(task, torch.rand(1, 3, 16, 112, 112), cells[:, :40], cells[:, 40:])
    assert num_parameters(task) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=0.005)
    assert rebuilt.shape == (1, 352, 1536)
    assert {block.attn.heads for block in task.reconstructor.decoder.blocks} == {task.backbone.feature_dim // 128}


GOLDEN = [
    0.2974737258469233,
    2.1786120580862143,
    0.7577184992820766,
    2.6546327393375657,
    2.8879379421726137,
    0.7577389793000373,
    2.6549074894302302,
    2.8877961515992783,
]


def test_golden_output():
    # VideoMAE's own model (MCG-NJU/VideoMAE:modeling_pretrain.py, small, decoder of 4 blocks) gave these with the same
    # weights, clip and mask: equal to 1e-14.
    task = create_task("vmae", ViT(size="small"), ClipSpec(16, 48)).double().eval()
    fill(task)
    places = torch.tensor([[5], [2]])
    seen = torch.cat([9 * slot + places for slot in range(8)], 1)
    hidden = torch.stack([torch.tensor([n for n in range(72) if n % 9 != place]) for place in places.flatten()])
    rebuilt = rebuild(task, formula_clip(2, 3, 16, 48, 48), seen, hidden)
    assert rebuilt.shape == (2, 64, 1536)
    assert digest(rebuilt.flatten()) == pytest.approx(GOLDEN, rel=1e-9)


def test_key_names_are_videomaes():
    with torch.device("meta"):
        keys = list(create_task("vmae", ViT(size="small")).reconstructor.state_dict())
    block = [
        *("norm1.weight", "norm1.bias", "attn.q_bias", "attn.v_bias", "attn.qkv.weight", "attn.proj.weight"),
        *("attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight"),
        "mlp.fc2.bias",
    ]
    assert sorted(keys) == sorted(
        ["mask_token", "encoder_to_decoder.weight"]
        + [f"decoder.blocks.{number}.{key}" for number in range(4) for key in block]
        + ["decoder.norm.weight", "decoder.norm.bias", "decoder.head.weight", "decoder.head.bias"]
    )


def test_the_encoder_sees_visible_tokens_only_and_in_order():
    task = make(short_vit())
    views = random_views(task, 2)
    given = []
    task.backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.no_grad():
        task(views)
        tokens = task.backbone.embed(views["clip_BCTHW"])
    for b in range(2):
        assert torch.equal(given[0][b], tokens[b, views["visible_BV"][b]])


def test_pixels_are_scaled_as_the_backbone_wants_them():
    task = make(short_vit())
    views = random_views(task, 2)
    with torch.no_grad():
        plain = task(views)["loss"]
        task.backbone.set_input("imagenet")
        scaled = task(views)["loss"]
        clip = task.backbone.scaled(views["clip_BCTHW"])
        task.backbone.set_input("unit")
        by_hand = task({**views, "clip_BCTHW": clip})["loss"]
    assert scaled.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert plain.item() != pytest.approx(scaled.item(), rel=1e-6)


# Feature maps


@pytest.mark.parametrize("make_backbone", [short_vit, lambda: FakeBackbone((2, 48, 48))], ids=["tokens", "map"])
def test_what_is_hidden_cannot_be_seen(make_backbone):
    task = make(make_backbone()).eval()
    corner = 9 * torch.arange(8)  # the upper left place, in all time slots
    others = torch.tensor([n for n in range(72) if n % 9])
    clip = torch.rand(2, 3, 16, 48, 48)
    changed = clip.clone()
    changed[0, :, :, :16, :16] = torch.rand(3, 16, 16, 16)
    for visible, hidden, same in [(others, corner, True), (corner, others, False)]:
        before, after = (rebuild(task, x, visible.expand(2, -1), hidden.expand(2, -1)) for x in (clip, changed))
        assert torch.equal(before[1], after[1])
        assert torch.equal(before[0], after[0]) == same


def test_hidden_tubelets_are_painted_over_with_the_learned_one():
    task = make()
    views = random_views(task, 2)
    task(views)
    given, token = task.backbone.given.detach(), task.reconstructor.mask_token[0].detach()
    assert token.shape == (3, 2, 16, 16)
    for b, n in itertools.product(range(2), range(72)):
        t, y, x = 2 * (n // 9), 16 * (n // 3 % 3), 16 * (n % 3)
        seen = given[b, :, t : t + 2, y : y + 16, x : x + 16]
        want = views["clip_BCTHW"][b, :, t : t + 2, y : y + 16, x : x + 16]
        assert torch.equal(seen, token if n in views["hidden_BM"][b] else want)
    # at the start it is an even grey, a mean colour of photographs
    assert token.mean((1, 2, 3)).tolist() == pytest.approx([0.485, 0.456, 0.406], abs=0.01)
    assert token.std((1, 2, 3)).max() < 0.03


def test_a_cell_is_rebuilt_from_the_maps_same_place():
    task = make(FakeBackbone((2, 16, 16)))
    views = random_views(task, 2)
    cells = views["hidden_BM"]
    with torch.no_grad():
        rebuilt = task.reconstructor(task.backbone, views)
        map_BDTHW = task.backbone(task.backbone.given)
        for b, m in itertools.product(range(2), (0, 13, 63)):
            slot, row, column = cells[b, m] // 9, cells[b, m] // 3 % 3, cells[b, m] % 3
            want = task.reconstructor.head(map_BDTHW[b, :, slot, row, column])
            assert torch.allclose(rebuilt[b, m], want, atol=1e-6)


@pytest.mark.parametrize(("stride", "cells"), [((8, 16, 16), (4, 1, 1)), ((16, 32, 32), (8, 2, 2))])
def test_a_step_of_the_map_is_divided_into_its_cells(stride, cells):
    task = make(FakeBackbone(stride))
    up = task.reconstructor.up
    assert up.kernel_size == up.stride == cells
    assert up.out_channels == task.reconstructor.head.in_features == 32  # a sixteenth of 512
    views = random_views(task, 2)
    hidden = views["hidden_BM"]
    with torch.no_grad():
        rebuilt = task.reconstructor(task.backbone, views)
        map_BDTHW = task.backbone(task.backbone.given)
        for b, m in itertools.product(range(2), (0, 13, 63)):
            place = [int(n) for n in (hidden[b, m] // 9, hidden[b, m] // 3 % 3, hidden[b, m] % 3)]
            t, y, x = (n // count for n, count in zip(place, cells, strict=True))
            u, v, w = (n % count for n, count in zip(place, cells, strict=True))
            feature = map_BDTHW[b, :, t, y, x] @ up.weight[:, :, u, v, w] + up.bias
            assert torch.allclose(rebuilt[b, m], task.reconstructor.head(feature), atol=1e-5)


@pytest.mark.parametrize("stride", [(16, 32, 32), (2, 32, 32), (1, 16, 16), (8, 16, 16), (1, 4, 4)])
@pytest.mark.parametrize("clip", [ClipSpec(16, 48), ClipSpec(12, 32), ClipSpec(2, 64)])
def test_maps_of_any_stride_fit_the_grid(stride, clip):
    task = make(FakeBackbone(stride), clip, mask_ratio=0.5)
    views = random_views(task, 2)
    out = task(views)
    places = (clip.size // 16) ** 2
    assert views["target_BMP"].shape == (2, clip.frames // 2 * (places // 2), 1536)
    out["loss"].backward()
    assert [key for key, p in task.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_carries_it(name):
    with torch.device("meta"):
        task = create_task("vmae", create_backbone(name), ClipSpec(16, 112))
        cells = torch.arange(392).expand(2, -1)
        views = {
            "clip_BCTHW": torch.rand(2, 3, 16, 112, 112),
            "visible_BV": cells[:, :40],
            "hidden_BM": cells[:, 40:],
            "target_BMP": torch.rand(2, 352, 1536),
        }
        out = task(views)
        out["loss"].backward()
    assert out["explained"].shape == (2,)
    assert [key for key, p in task.named_parameters() if p.grad is None] == []
    assert isinstance(task.reconstructor, MapReconstructor) == (name != "vit")
