"""One run from request to summary: resolve, pre-train, test the pretext, evaluate, show.

A request is what the user asked for (the keys set by hand); its hash names the run. Resolution fills in presets,
"auto" fields and the task's own defaults, once, and writes them down before step 0; whoever repeats the request in the
same folder goes on with what was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from .backbones import create_backbone
from .backbones.base import Backbone
from .backbones.weights import load_weights
from .data import catalog
from .data.decode import open_decoder
from .data.decode.base import Decoder
from .data.plan import uniforms
from .data.store import Store
from .engine.context import Context
from .engine.progress import Reporter
from .engine.runs import RunDirectory, write_atomic
from .engine.setup import build_accelerator, keep_freed_memory
from .engine.trainer import Trainer, require_whole_steps
from .errors import DataError, RunError
from .evals.pretext import evaluate_pretext
from .evals.target import open_target
from .evals.watch import Watch
from .evaluate import run_evaluations, summarise
from .home import runs_dir
from .report.curves import draw_curves, png, read_log
from .resolve import (
    Resolved,
    identity,
    leave_together,
    measure,
    processes,
    request_hash,
    require_unchanged,
    resolve,
)
from .spec import RunSpec, from_dict, override, to_dict
from .tasks import create_task
from .tasks.base import ClipSpec, Task


def default_directory(request: Mapping[str, Any]) -> Path:
    """`$VIDSSL_HOME/runs/TASK-BACKBONE-DATA-HASH`: the same request finds the same folder."""
    spec = override(RunSpec(), {k: v for k, v in request.items() if k in ("task.name", "backbone.name")})
    data = str(request.get("data.source", "auto")).strip("/").replace("/", "_")
    return runs_dir() / f"{spec.task.name}-{spec.backbone.name}-{data}-{request_hash(request)}"


def build_task(spec: RunSpec, initial: Backbone | None) -> Task:
    """The pretext task around a fresh backbone. Its weights are those of `initial`, or else a function of the seed; the
    heads' are a function of the seed in either case."""
    torch.manual_seed(spec.seed)
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    if initial is not None:
        backbone.load_state_dict(initial.state_dict())
    return create_task(spec.task.name, backbone, ClipSpec(spec.data.frames, spec.data.size), **spec.task.options)


def execute(request: Mapping[str, Any], out: Path | None, reporter: Reporter) -> dict[str, Any]:
    """Runs a request to its end, or goes on with it. Returns the summary.

    Raises:
        VidsslError: a mistake of the user's, before anything is overwritten.
        Interrupted: asked to stop; a checkpoint is written.
    """
    keep_freed_memory()
    main = processes().is_main_process
    reporter.quiet = reporter.quiet or not main
    run = RunDirectory(out or default_directory(request), main)
    stored = run.stored()
    if stored is not None:
        run.require_same(stored, dict(request), request_hash(request))
    resolved = resolve(request, reporter)
    if stored is not None:
        require_unchanged(run, stored.pop("identity"), resolved)
        resolved.spec = from_dict(stored)
        if resolved.spec.engine.precision == "bf16" and not torch.cuda.is_available():
            raise RunError(
                f"{run.path} was begun in bf16 on a GPU, and there is none here. Go on with it where there is one, or "
                "begin anew with --out."
            )
    accelerator = build_accelerator(resolved.spec.engine)
    for note in resolved.notes:
        reporter.say(note)
    figures: dict[str, Any] = {}
    if stored is None:
        resolved.spec, figures = measure(resolved, accelerator, reporter)
    task = build_task(resolved.spec, resolved.initial)
    for note in check_pretraining(task, resolved, processes().num_processes):
        reporter.say(note)
    if stored is None:
        run.begin(to_dict(resolved.spec), identity(request, resolved), figures, task.augmentation_in_use())
    reporter.say(f"run: {run.path}")
    context = Context(accelerator, resolved.spec.engine, run, request_hash(request), resolved.spec.seed, reporter)
    summary = _stages(task, resolved, context)
    leave_together()
    return summary


def check_pretraining(task: Task, resolved: Resolved, world: int) -> list[str]:
    """What the user should read before the training of this task on these data.

    Raises ConfigError or DataError where it cannot be trained or tested on them in these steps.
    """
    spec, source = resolved.spec, resolved.source
    assert source is not None
    rows = usable_rows(task, source, catalog.training_rows(source, spec.data.subset), "training")
    usable_rows(task, source, source.indices("test"), "test")
    batch = min(spec.pretrain.batch, len(rows))
    task.check_data(len(rows), batch)
    require_whole_steps("pretrain", task, batch, spec.engine.micro_batch, world)
    return short_videos_note(task, source, rows, spec) if spec.pretrain.epochs else []


def short_videos_note(task: Task, store: Store, rows: np.ndarray, spec: RunSpec) -> list[str]:
    """For what share of the first epoch's clips the video is too short; nothing is decoded."""
    request, frames = task.request(), store.frames[rows]
    drawn = task.draw(uniforms(spec.seed, 0, store.keys[rows], request.num_uniforms), frames)
    share = 0.0 if drawn.extended is None else drawn.extended.mean()
    if not share:
        return []
    policy = spec.task.options.get("short_videos", "the task's own")
    return [
        f"pretrain: {100 * share:.0f} % of the first epoch's clips will be of videos too short for them (short_videos: "
        f"{policy}). {task.name} needs up to {request.min_frames} frames; {(frames >= request.min_frames).sum()} of "
        f"{len(frames)} videos have as many."
    ]


def usable_rows(task: Task, store: Store, rows: np.ndarray, split: str) -> np.ndarray:
    """The rows of videos that take part. Raises DataError where there are rows, and none does."""
    usable = rows[task.usable(store.frames[rows])]
    if len(rows) and not len(usable):
        raise DataError(
            f"all {len(rows)} {split} videos of {store.path.name!r} are shorter than the {task.request().min_frames} "
            f"frames that {task.name} needs (the longest has {store.frames[rows].max()}). Take another --set "
            "task.short_videos."
        )
    return usable


def build_watch(
    task: Task, decoder: Decoder, rows: np.ndarray, target: Store | None, spec: RunSpec, context: Context
) -> Watch:
    """A look at the target's features; at those of the training videos where nothing is evaluated."""
    opened = None
    if target is not None:
        threads = spec.engine.decode_threads or None
        opened = open_target(open_decoder(spec.data.target_decoder, target, context.device, threads))
        decoder, rows = opened.decoder, opened.train
    last = spec.pretrain.epochs
    return Watch(task.backbone, decoder, rows, opened, task.clip, spec.watch, spec.eval, context, last)


def _stages(task: Task, resolved: Resolved, context: Context) -> dict[str, Any]:
    spec = resolved.spec
    threads = spec.engine.decode_threads or None
    assert resolved.source is not None
    decoder = open_decoder(spec.data.decoder, resolved.source, context.device, threads)
    target = resolved.target
    pretrain = _pretrain(task, decoder, target, spec, context)
    results = {} if target is None else run_evaluations(task.backbone, target, spec, context)
    begun_with = resolved.weights.to_dict() if resolved.weights else None
    return summarise(spec, task.backbone, pretrain, begun_with, results, context)


def _pretrain(task: Task, decoder: Decoder, target: Store | None, spec: RunSpec, context: Context) -> dict[str, Any]:
    run = context.run
    weights = run.path / "model.safetensors"
    done = run.stage_result("pretrain")
    if done is not None and weights.exists():
        load_weights(task.backbone, weights, input=task.backbone.input)
        return done
    source = decoder.store
    every_row = catalog.training_rows(source, spec.data.subset)
    rows = usable_rows(task, source, every_row, "training")
    if len(rows) < len(every_row):
        context.reporter.say(
            f"pretrain: {len(every_row) - len(rows)} of {len(every_row)} videos are shorter than the "
            f"{task.request().min_frames} frames that {task.name} needs, and are left out (task.short_videos = skip)"
        )
    watch = build_watch(task, decoder, rows, target, spec, context) if spec.watch.every else None
    trained = Trainer("pretrain", task, spec.pretrain, decoder, rows, context, watch).fit()
    every_test = source.indices("test")
    test = usable_rows(task, source, every_test, "test")
    tested = evaluate_pretext(
        task, decoder, test if len(test) else rows, context, spec.eval.pretext_repeats, spec.eval.batch
    )
    for what, extended, clips in (
        ("pretrain", trained["extended_clips"], trained["clips"]),
        ("pretext test", tested["test_extended_clips"], tested["clips"]),
    ):
        if extended:
            context.reporter.say(
                f"{what}: {100 * extended / clips:.0f} % of the clips came from videos too short for them: frames were "
                "repeated, or gaps made smaller"
            )
    result = {**tested, **trained, "test_clips": tested["clips"], "videos_trained": len(rows)}
    result |= {"videos_skipped": len(every_row) - len(rows), "test_videos_skipped": len(every_test) - len(test)}
    result |= {"tested_on": "test" if len(test) else "train"}
    if run.main:
        state = {key: value.contiguous() for key, value in task.backbone.state_dict().items()}
        write_atomic(weights, save(state, {"spec": json.dumps(to_dict(spec))}))
        title = f"{spec.task.name} on {spec.backbone.name}, {spec.data.source}"
        write_atomic(run.path / "pretrain.png", png(draw_curves(read_log(run.path, "pretrain"), task.metric, title)))
    run.finish_stage("pretrain", result)
    return result
