"""What it costs to turn decoded frames into what the networks see, for every task and both of its recipes.

python benchmarks/transforms.py                            all tasks, and the peers
python benchmarks/transforms.py --tasks cvrl --threads 1   one task, one thread

A group is a task with a recipe; its rows take turns. "views" is the task's own preparation of a batch of 64 samples in
memory (171x128 frames, uint8, as the store gives them). "step" is the training step on such views with R(2+1)D:
forward, backward, optimizer, queues; a few samples at a time, and its cost a sample. "copy" moves as many bytes as the
best possible single pass would: the frames read once, the views written once. On a GPU "views, compiled" is the same
under torch.compile. The share of the step is taken pair by pair; at most 10 % on a CPU and 5 % on a GPU is wanted.

The peers do the work of one clip's augmentation with the same parameters, one set a clip: torchvision's v2 functions
clip by clip, on uint8 as far as they take it, and Kornia's functions on all frames at once, on the chosen clips alone
as its containers do. Both turn hue in HSV and clamp after every step. `agreement` is how far their pictures are from
ours on smooth frames without hue and saturation, which they define otherwise: the mean difference in grey levels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import Candidate, parser, run

from vidssl import create_backbone, create_task, list_tasks
from vidssl.data.plan import uniforms
from vidssl.engine.setup import keep_freed_memory
from vidssl.tasks import TASKS
from vidssl.tasks.base import ClipSpec, Task
from vidssl.transforms.augment import SharedAugmentation
from vidssl.transforms.geometry import crop_side, offsets, resized_crop
from vidssl.transforms.views import ViewAugmentation

KERNEL = 13  # of the peers' blur: three deviations of two pixels to either side
Params = dict[str, torch.Tensor]


def frames(batch: int, length: int, height: int, width: int) -> torch.Tensor:
    """Smooth and different everywhere, uint8 [B, T, H, W, 3]."""
    axes = torch.meshgrid(*map(torch.arange, (batch, length, height, width, 3)), indexing="ij")
    b, t, y, x, c = (axis.float() for axis in axes)
    return (100 + 35 * (0.06 * x + 0.5 * c + b).sin() + 30 * (0.05 * y + 0.1 * t).cos()).to(torch.uint8)


class Job:
    """Sizes, and what was found on the way: bytes moved, by row."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.smoke = options.smoke
        self.backbone = "shufflenet" if options.smoke else options.backbone
        self.clip = ClipSpec(16, 32 if options.smoke else 112)
        self.picture = (40, 53) if options.smoke else (128, 171)
        self.batch = 4 if options.smoke else options.batch
        self.step_samples, self.peer_clips = options.step_samples, 4 if options.smoke else options.peer_clips
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bytes: dict[str, tuple[int, int]] = {}
        self.agreement: dict[str, float] = {}

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def task(self, name: str, recipe: str | None) -> Task:
        torch.manual_seed(0)
        options = {"recipe": recipe} if recipe else {}
        return create_task(name, create_backbone(self.backbone), self.clip, **options).to(self.device)

    def resident(self, task: Task, batch: int) -> tuple[torch.Tensor, Params]:
        request = task.request()
        u = uniforms(0, 0, np.arange(batch, dtype=np.uint64), request.num_uniforms)
        drawn = task.draw(u, np.full(batch, 4 * request.min_frames))
        length = drawn.frame_indices.shape[1]
        # values cost nothing to vary here: no row depends on them
        clips = torch.randint(0, 256, (batch, length, *self.picture, 3), dtype=torch.uint8)
        return clips.to(self.device), self.to_device(drawn.params)

    def to_device(self, params: dict[str, np.ndarray]) -> Params:
        return {name: torch.from_numpy(np.ascontiguousarray(value)).to(self.device) for name, value in params.items()}

    def views(self, name: str, recipe: str | None, compiled: bool) -> Callable[[int], int]:
        task = self.task(name, recipe)
        clips, params = self.resident(task, self.batch)
        make = torch.compile(task.views) if compiled else task.views

        @torch.no_grad()
        def call(number: int) -> int:
            make(clips, params)
            self.wait()
            return self.batch

        return call

    def step(self, name: str, recipe: str | None) -> Callable[[int], int]:
        task = self.task(name, recipe).train()
        with torch.no_grad():
            views = task.views(*self.resident(task, self.step_samples))
        optimizer = torch.optim.SGD(task.parameter_groups(), lr=1e-4, momentum=0.9)
        on_gpu = self.device.type == "cuda"

        def call(number: int) -> int:
            with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
                out = task(views)
            out["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                task.after_step({key: out[key].detach() for key in task.kept})
            self.wait()
            return self.step_samples

        return call

    def copy(self, name: str, recipe: str | None) -> Callable[[int], int]:
        task = self.task(name, recipe)
        clips, params = self.resident(task, self.batch)
        with torch.no_grad():
            written = sum(view.nbytes for view in task.views(clips, params).values())
        self.bytes[row_name(name, recipe)] = clips.nbytes, written
        # half of the bytes are read and half are written
        source = torch.ones((clips.nbytes + written) // 8, dtype=torch.int32, device=self.device)
        target = torch.zeros_like(source)
        del clips, params

        def call(number: int) -> int:
            target.copy_(source)
            self.wait()
            return self.batch

        return call

    def peer(self, name: str, kind: str) -> Callable[[int], int]:
        augmentation = self.augmentation(name)
        u = uniforms(0, 0, np.arange(self.peer_clips, dtype=np.uint64), augmentation.num_uniforms)
        clips = frames(self.peer_clips, self.clip.frames, *self.picture).to(self.device)
        params = self.to_device(augmentation.draw(u))
        make: Callable[[torch.Tensor, Params], torch.Tensor] = augmentation.apply
        if kind != "ours":
            make = partial(by_torchvision if kind == "torchvision" else by_kornia, self.clip.size)
            params["box"] = self.box(augmentation, params)
            self.agreement[f"{name}, {kind}"] = self.difference(make, augmentation.apply, clips, params)

        @torch.no_grad()
        def call(number: int) -> int:
            make(clips, params)
            self.wait()
            return self.peer_clips

        return call

    def box(self, augmentation: SharedAugmentation | ViewAugmentation, params: Params) -> torch.Tensor:
        """Top, left, height and width of each clip's crop, int64 [B, 4], which the peers are told."""
        if isinstance(augmentation, ViewAugmentation):
            range_of_shapes = augmentation.args.aspect
            drawn = params["area"], params["aspect"], params["crop"]
            return torch.stack(resized_crop(*drawn, self.picture, range_of_shapes), 1)
        side = crop_side(*self.picture)
        corner = [offsets(params["crop"][:, k], self.picture[k] - side) for k in (0, 1)]
        return torch.stack([*corner, *[torch.full_like(corner[0], side)] * 2], 1)

    @torch.no_grad()
    def difference(self, theirs: Any, ours: Any, clips: torch.Tensor, params: Params) -> float:
        """Mean, in grey levels, without the hue and the saturation that are not those of grey."""
        factors = params["jitter"].clone()
        factors[:, 2], factors[:, 3] = (factors[:, 2] != 0).float(), 0.0
        plain = {**params, "jitter": factors}
        return round(float((theirs(clips, plain) - ours(clips, plain)).abs().mean()) * 255, 2)

    def augmentation(self, name: str) -> SharedAugmentation | ViewAugmentation:
        if name == "shared":
            return SharedAugmentation(size=self.clip.size)
        task: Any = self.task("cvrl" if name.startswith("cvrl") else name, "original")
        return task.augmentations[0 if "first" in name else 1] if name.startswith("cvrl") else task.augmentation

    def complete(self, result: dict[str, Any]) -> None:
        """Adds to each row of a task its cost a batch, its share of the step, and how far from a mere copy it is."""
        result |= {"backbone": self.backbone, "clip": [self.clip.frames, self.clip.size], "picture": list(self.picture)}
        result |= {"threads": torch.get_num_threads(), "batch": self.batch, "step_samples": self.step_samples}
        result |= {"precision": "bf16" if self.device.type == "cuda" else "fp32", "agreement": self.agreement}
        result |= {
            "own_baselines": "each task's own step, or torchvision",
            "show": ["batch_ms", "share_of_step", "copies"],
        }
        rows = {row["name"]: row for row in result["rows"] if not row["error"]}
        for row in rows.values():
            row["batch_ms"] = round(row["wall_ms_per_sample"]["median"] * self.batch, 2)
        for name, row in rows.items():
            group, _, kind = name.rpartition(": ")
            if not kind.startswith("views"):
                continue
            if "wall_ratio" in row:
                row["share_of_step"] = round(1 / row["wall_ratio"]["median"], 4)
            copy = rows.get(f"{group}: copy")
            if copy:
                row["copies"] = round(row["batch_ms"] / copy["batch_ms"], 2)
                row["bytes_read"], row["bytes_written"] = moved = self.bytes[group]
                copy["gbyte_per_s"] = round(sum(moved) / copy["batch_ms"] / 1e6, 2)


def by_torchvision(size: int, frames_BTHWC: torch.Tensor, params: Params) -> torch.Tensor:
    """Clip by clip. Numbers are taken from the host's copy of the parameters, as a loader would have them."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    drawn = {name: value.tolist() for name, value in params.items()}
    clips = []
    for b, frames_THWC in enumerate(frames_BTHWC):
        x, box = frames_THWC.permute(0, 3, 1, 2), drawn["box"][b]
        if "area" in drawn:
            x = F.resized_crop(x, *box, [size, size], antialias=True)
        else:
            x = F.crop(F.rotate(x, drawn["degrees"][b], interpolation=InterpolationMode.BILINEAR), *box)
            x = F.resize(x, [size, size], antialias=True)
        x = F.horizontal_flip(x) if drawn["flip"][b] else x
        brightness, contrast, saturation, hue = drawn["jitter"][b]
        for adjust, factor in ((F.adjust_brightness, brightness), (F.adjust_contrast, contrast)):
            x = adjust(x, factor) if factor != 1 else x
        if saturation == 0:
            x = F.rgb_to_grayscale(x, 3)
        else:
            x = F.adjust_saturation(x, saturation) if saturation != 1 else x
            x = F.adjust_hue(x, hue) if hue else x
        if "area" in drawn:
            x = F.gaussian_blur(x, [KERNEL, KERNEL], [drawn["sigma"][b]] * 2) if drawn["sigma"][b] else x
            x = F.solarize(x, 128) if drawn["solarise"][b] else x
        clips.append(F.to_dtype(x, torch.float32, scale=True).transpose(0, 1))
    return torch.stack(clips)


def by_kornia(size: int, frames_BTHWC: torch.Tensor, params: Params) -> torch.Tensor:
    """All frames at once, each with its clip's parameters."""
    from kornia import color, enhance, filters
    from kornia.geometry import transform

    length = frames_BTHWC.shape[1]
    x = frames_BTHWC.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    each = {name: value.repeat_interleave(length, 0) for name, value in params.items()}
    if "area" not in params:
        x = transform.rotate(x, each["degrees"])
    top, left, tall, wide = each["box"].float().unbind(1)
    right, bottom = left + wide - 1, top + tall - 1
    corners = [torch.stack(corner, 1) for corner in ((left, top), (right, top), (right, bottom), (left, bottom))]
    x = transform.crop_and_resize(x, torch.stack(corners, 1), (size, size))
    x = torch.where(each["flip"][:, None, None, None], x.flip(3), x)
    brightness, contrast, saturation, hue = each["jitter"].unbind(1)
    chosen = brightness != 1
    x[chosen] = enhance.adjust_brightness_accumulative(x[chosen], brightness[chosen])
    x[chosen] = enhance.adjust_contrast_with_mean_subtraction(x[chosen], contrast[chosen])
    grey = saturation == 0
    chosen = (hue != 0) & ~grey
    x[chosen] = enhance.adjust_saturation(x[chosen], saturation[chosen])
    x[chosen] = enhance.adjust_hue(x[chosen], hue[chosen] * 2 * torch.pi)
    x[grey] = color.rgb_to_grayscale(x[grey]).expand(-1, 3, -1, -1)
    if "area" in params:
        chosen = each["sigma"] > 0
        sigma = each["sigma"][chosen, None].expand(-1, 2)
        if len(sigma):
            x[chosen] = filters.gaussian_blur2d(x[chosen], (KERNEL, KERNEL), sigma)
        x[each["solarise"]] = enhance.solarize(x[each["solarise"]], 0.5)
    return x.unflatten(0, (-1, length)).transpose(1, 2)


PEERS = ("shared", "cvrl, first view", "cvrl, second view", "rspnet")


def row_name(task: str, recipe: str | None) -> str:
    return f"{task}, {recipe}" if recipe else task


def candidates(job: Job, tasks: list[str]) -> list[Candidate]:
    """The table: each task's recipes, then the peers."""
    table = []
    for name in tasks:
        has_recipe = "recipe" in TASKS.get(name).Args.__dataclass_fields__
        for recipe in ("paper", "original") if has_recipe else (None,):
            group = row_name(name, recipe)
            step = f"{group}: step"
            table.append(Candidate(step, partial(job.step, name, recipe), against="", group=group))
            for kind in ("views", "views, compiled") if job.device.type == "cuda" else ("views",):
                opened = partial(job.views, name, recipe, "compiled" in kind)
                table.append(Candidate(f"{group}: {kind}", opened, against=step, group=group))
            table.append(Candidate(f"{group}: copy", partial(job.copy, name, recipe), against="", group=group))
    for name in PEERS[::2] if job.smoke else PEERS:
        base = f"one clip, {name}: torchvision"
        for kind in ("torchvision", "kornia", "ours"):
            title = f"one clip, {name}: {kind}"
            against = "" if title == base else base
            table.append(Candidate(title, partial(job.peer, name, kind), against=against, group=base))
    return table


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--tasks", nargs="+", metavar="NAME", help="default: all")
    options.add_argument("--backbone", default="r21d", help="of the step (default: %(default)s)")
    options.add_argument("--batch", type=int, default=64, help="samples of a batch of views (default: %(default)s)")
    options.add_argument("--step-samples", type=int, default=2, help="samples of a timed step (default: %(default)s)")
    options.add_argument("--peer-clips", type=int, default=16, help="clips a call of the peers (default: %(default)s)")
    options.add_argument("--threads", type=int, default=0, help="of torch; 0: as it chooses")
    options.set_defaults(iterations=10)
    chosen: argparse.Namespace = options.parse_args()
    keep_freed_memory()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    job = Job(chosen)
    tasks = chosen.tasks or (["cvrl", "rotnet"] if chosen.smoke else list_tasks())
    table = candidates(job, tasks)
    return run(chosen, "transforms", table, "sample", table[0].name, job.complete)


if __name__ == "__main__":
    raise SystemExit(main())
