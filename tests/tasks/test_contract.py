"""What every task promises, tried on all of them, and on a backbone of every family."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from vidssl import create_backbone, create_task, list_tasks
from vidssl.data.plan import uniforms
from vidssl.presets import SMALL_TASK
from vidssl.tasks import TASKS
from vidssl.tasks.base import ClipSpec

CLIP = ClipSpec(8, 32)
FAMILIES = {
    "shufflenet": {"width": 0.5},
    "mobilenet": {"width": 0.45},
    "squeezenet": {},
    "c3d": {},
    "r3d": {},
    "r21d": {},
    "videoswin": {},
    "vit": {"size": "small"},
}
LENGTHS = np.array([300, 1, 7, 200, 33, 64, 129, 20])  # some too short for any task
RECIPES = [(name, recipe) for name in list_tasks() for recipe in ("paper", "original")]


def make(name, family="shufflenet", clip=CLIP, dropping=True, **options):
    """`dropping` turned off leaves VideoSwin without drop path, which is there so that nothing is learned by heart."""
    torch.manual_seed(0)
    options = {**SMALL_TASK.get(name, {}), **options}
    still = {"drop_path": 0.0} if family == "videoswin" and not dropping else {}
    return create_task(name, create_backbone(family, **FAMILIES[family], **still), clip, **options)


def draw(task, lengths=LENGTHS, epoch=0, first=0):
    keys = np.arange(first, first + len(lengths), dtype=np.uint64)
    return task.draw(uniforms(0, epoch, keys, task.request().num_uniforms), lengths)


def tensors(params, rows=slice(None)):
    return {name: torch.from_numpy(np.ascontiguousarray(values[rows])) for name, values in params.items()}


def smooth_frames(indices_NT, height=40, width=54):
    """uint8 [N, T, H, W, 3]: waves of each sample's own direction and colour that travel with the frame number."""
    sample = torch.arange(len(indices_NT))[:, None, None, None, None] + 1.0
    t = torch.from_numpy(indices_NT)[:, :, None, None, None]
    y, x = torch.arange(height)[:, None, None] / height, torch.arange(width)[:, None] / height
    phase = 6.3 * (x * sample.sin() + y * sample.cos()) * (2 + sample % 3) + 0.35 * t + torch.arange(3) * sample
    return (127.5 + 127.5 * phase.sin()).to(torch.uint8)


def views_of(task, drawn, rows=slice(None)):
    with torch.no_grad():
        return task.views(smooth_frames(drawn.frame_indices)[rows], tensors(drawn.params, rows))


@cache
def some_views(name, count=4):
    """Views at CLIP; they do not depend on the backbone."""
    task = make(name)
    return views_of(task, draw(task, LENGTHS[:count]))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", list_tasks())
def test_a_step_on_every_family(name, family):
    task = make(name, family).train()
    views = some_views(name)
    out = task(views)
    assert out["loss"].shape == ()
    assert out["loss"].isfinite()
    metric = out[task.metric]
    assert (metric.shape, metric.dtype) == ((4,), torch.float32)
    assert metric.max() <= 1
    for key, value in out.items():
        assert key in task.kept or value.shape in ((), (4,)), key
    out["loss"].backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in task.backbone.parameters()]
    assert np.mean(reached) > 0.9
    assert all(p.grad is None for p in task.parameters() if not p.requires_grad)
    with torch.no_grad():
        task.after_step({key: out[key].detach() for key in task.kept})
    assert task(views)["loss"].isfinite()


@pytest.mark.parametrize("name", list_tasks())
def test_scoring_changes_nothing(name):
    task = make(name).eval()
    before = state(task)
    with torch.inference_mode():
        out = task(some_views(name))
    assert all(torch.equal(value, before[key]) for key, value in task.state_dict().items())
    assert out[task.metric].shape == (4,)


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_a_sample_draws_the_same_in_any_company(name, recipe):
    task = make(name, recipe=recipe)
    whole, alone = draw(task), draw(task, LENGTHS[3:5], first=3)
    np.testing.assert_array_equal(whole.frame_indices[3:5], alone.frame_indices)
    for key, values in whole.params.items():
        np.testing.assert_array_equal(values[3:5], alone.params[key], err_msg=key)
    other = draw(task, epoch=1)
    assert any((values != other.params[key]).any() for key, values in whole.params.items())


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_frames_are_the_videos_own_and_short_videos_are_counted(name, recipe):
    task = make(name, recipe=recipe)
    lengths = np.repeat(LENGTHS, 25)
    drawn, request = draw(task, lengths), task.request()
    assert drawn.frame_indices.shape == (len(lengths), request.num_frames)
    assert (drawn.frame_indices >= 0).all()
    assert (drawn.frame_indices < lengths[:, None]).all()
    assert not drawn.extended[lengths >= request.min_frames].any()
    assert drawn.extended[lengths < CLIP.frames].all()


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_what_a_sample_shows_does_not_depend_on_the_others(name, recipe):
    task = make(name, recipe=recipe)
    drawn = draw(task)
    whole = views_of(task, drawn)
    parts = [views_of(task, drawn, slice(first, first + 4)) for first in (0, 4)]
    for key, value in whole.items():
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), value, rtol=1e-5, atol=1e-5, msg=key)
        if value.dim() >= 5 and key != "attention_BCGHW":  # pictures
            assert value.min() >= 0
            assert value.max() <= 1


@pytest.mark.parametrize("name", list_tasks())
def test_what_is_listed(name):
    task = TASKS.get(name)
    built = make(name)
    assert task.group in ("S", "T", "ST")
    assert task.paper.rpartition(" ")[2].isdigit()
    assert 0 <= built.chance() < 1
    assert built.labels != "-"
    assert built.clips_per_sample >= 1
    assert {"pretrain.optimizer", "pretrain.lr", "pretrain.batch"} <= set(task.recipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_tasks())
def test_compiled_views_show_the_same(name):
    task = make(name)
    drawn = draw(task)
    eager = views_of(task, drawn)
    torch._dynamo.reset()
    task.views = torch.compile(task.views)
    for key, value in views_of(task, drawn).items():
        torch.testing.assert_close(value, eager[key], rtol=1e-4, atol=1e-4, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", list_tasks())
def test_eight_clips_are_learned_by_heart(name, family):
    """The part of the loss that a network can bring to zero falls below a fifth of what it was and stays there for
    three steps."""
    task = make(name, family, dropping=False).train()
    views = some_views(name, 8)
    parameters = [p for p in task.parameters() if p.requires_grad]
    rate = 1e-3 if family not in ("c3d", "videoswin", "vit") else 6e-4 if name == "vmae" else 3e-4
    optimizer = torch.optim.AdamW(parameters, rate, fused=True)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
    out_of_reach = unavoidable(task, views)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        out = task(views)
        out["loss"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        warmup.step()
        losses.append(out.get("loss_cls", out["loss"]).item() - out_of_reach)
        if len(losses) > 3 and max(losses[-3:]) < 0.2 * losses[0]:
            return
    pytest.fail(f"from {losses[0]:.3f} to {losses[-1]:.3f} only")


@torch.no_grad()
def unavoidable(task, views):
    """The least loss that any queries can have with the keys as they are. RSPNet's two keys of a video may be nearer to
    each other than its margin (of a video of one frame they are the same): no unit vector is then further from one than
    they are apart."""
    if task.name != "rspnet":
        return 0.0
    same, other = (task.key_encoder(views[f"{view}_BCTHW"])[:, 1] for view in ("same", "other"))
    apart = (same - other).norm(dim=1) / task.args.temperature
    return (task.args.margin - apart).clamp(min=0).mean().item()
