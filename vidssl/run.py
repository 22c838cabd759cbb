"""One run from request to summary: resolve, pre-train, test the pretext, evaluate, show.

A request is what the user asked for (the keys set by hand); its hash names the run. Resolution fills in presets,
"auto" fields and the task's own defaults, once, and writes them down before step 0; whoever repeats the request in the
same folder goes on with what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save

from . import presets
from .backbones import BACKBONES, create_backbone
from .backbones.base import Backbone, num_parameters
from .data import catalog
from .data.decode import open_decoder
from .data.decode.auto import choose_decoder
from .data.decode.base import Decoder
from .data.store import Store
from .engine.progress import Reporter
from .engine.runs import RunDirectory, write_atomic
from .engine.setup import build_accelerator, faster_layout, keep_freed_memory, resolve_engine
from .engine.trainer import Context, Trainer
from .errors import RunError
from .evals.pretext import evaluate_pretext
from .evals.suite import Suite, open_target
from .home import runs_dir
from .spec import (
    RunSpec,
    complete_options,
    dataclass_options,
    from_dict,
    override,
    signature_options,
    to_dict,
)
from .tasks import TASKS, create_task
from .tasks.base import ClipSpec, Task


@dataclass
class Resolved:
    """A spec without "auto", and the stores it speaks of (`target` None where nothing is evaluated)."""

    spec: RunSpec
    source: Store | None
    target: Store | None
    notes: list[str]


def request_hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()[:8]


def default_directory(request: Mapping[str, Any]) -> Path:
    """`$VIDSSL_HOME/runs/TASK-BACKBONE-DATA-HASH`: the same request finds the same folder."""
    spec = override(RunSpec(), {k: v for k, v in request.items() if k in ("task.name", "backbone.name")})
    data = str(request.get("data.source", "auto")).strip("/").replace("/", "_")
    return runs_dir() / f"{spec.task.name}-{spec.backbone.name}-{data}-{request_hash(request)}"


def processes() -> PartialState:
    """The processes of this run, before Accelerate is built: its settings are part of what is resolved."""
    return PartialState(cpu=not torch.cuda.is_available())


def resolve(request: Mapping[str, Any], reporter: Reporter) -> Resolved:
    """Fills in everything but what must be measured (decoder, layout). Raises ConfigError, DataError."""
    notes = []
    on_gpu = torch.cuda.is_available()
    spec = override(RunSpec(), request)
    task, backbone = TASKS.get(spec.task.name), BACKBONES.get(spec.backbone.name)
    source_name = spec.data.source if spec.data.source != "auto" else catalog.default_source()
    if spec.data.source == "auto":
        notes.append(f"no --data given: using {source_name!r}")
    source = _open_data(source_name, reporter)
    rows = catalog.training_rows(source, spec.data.subset)
    target_name, wanted = spec.data.target, spec.eval.names
    if target_name == "auto":
        target_name = source_name
        if wanted and ((source.labels < 0).any() or not len(source.indices("test"))):
            notes.append(
                f"{source_name!r} has no labels or no test split: nothing is evaluated on it (choose one with --target)"
            )
            wanted = []
    target = _open_data(target_name, reporter) if wanted else None
    preset = spec.preset
    if preset == "auto":
        embedded = source_name.partition("-")[0] == catalog.EMBEDDED
        preset = "small" if embedded or not on_gpu else "paper"
        why = "for the embedded data" if embedded else "because there is no GPU"
        if preset == "small":
            notes.append(f"preset 'small' {why} (64 px, few epochs); --preset paper gives the benchmark's protocol")
    changes = dict(task.recipe)
    if preset == "small":
        finetune_videos = len(catalog.training_rows(target, "all")) if target else 1
        changes |= presets.small_preset(spec.task.name, len(rows), finetune_videos)
    spec = override(RunSpec(), {**changes, **request})
    spec = replace(
        spec,
        preset=preset,
        task=complete_options(spec.task, dataclass_options(task.Args), "task"),
        backbone=complete_options(spec.backbone, signature_options(backbone), "backbone"),
        data=replace(spec.data, source=source_name, target=target_name if target else "none"),
        eval=replace(spec.eval, names=list(wanted)),
        engine=resolve_engine(spec.engine, on_gpu),
    )
    return Resolved(spec, source, target, notes)


def _open_data(name: str, reporter: Reporter) -> Store:
    with processes().main_process_first():  # which prepares the embedded set where it is missing
        return catalog.open_data(name, reporter)


def measure(resolved: Resolved, accelerator: Accelerator, reporter: Reporter) -> tuple[RunSpec, dict[str, Any]]:
    """Chooses decoders and memory layout by measurement, on the main process, for all.

    Returns the spec and the figures it was decided by.
    """
    spec = resolved.spec
    choices: list[Any] = [None]
    if accelerator.is_main_process:
        data, layout, figures = spec.data, spec.engine.layout, {}
        threads = spec.engine.decode_threads or None
        for key, store in (("decoder", resolved.source), ("target_decoder", resolved.target)):
            if store is not None and getattr(data, key) == "auto":
                choice = choose_decoder(store, accelerator.device, threads)
                reporter.say(f"decoder for {store.path.name!r}: {choice.name} ({choice.summary()})")
                data = replace(data, **{key: choice.name})  # type: ignore[arg-type]
                figures[key] = choice.to_dict()
        if layout == "auto":
            build = partial(create_backbone, spec.backbone.name, **spec.backbone.options)
            clip = ClipSpec(spec.data.frames, spec.data.size)
            layout, seconds = faster_layout(build, clip, min(spec.pretrain.batch, 16), accelerator.device)
            shown = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
            reporter.say(f"memory layout: {layout} (a training pass of the backbone: {shown})")
            figures["layout_seconds"] = seconds
        choices = [(data, layout, figures)]
    data, layout, figures = broadcast_object_list(choices)[0]
    return replace(spec, data=data, engine=replace(spec.engine, layout=layout)), figures


def build_task(spec: RunSpec) -> Task:
    """The pretext task around a fresh backbone; the initial weights are a function of the seed."""
    torch.manual_seed(spec.seed)
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    return create_task(spec.task.name, backbone, ClipSpec(spec.data.frames, spec.data.size), **spec.task.options)


def store_identity(store: Store | None) -> str:
    """A hash that changes when the videos of a store do; "none" without a store."""
    if store is None:
        return "none"
    lines = "\n".join(f"{video}\t{frames}" for video, frames in zip(store.ids, store.frames.tolist(), strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _identity(request: Mapping[str, Any], source: Store | None, target: Store | None) -> dict[str, str]:
    return {
        "request": request_hash(request),
        "requested": json.dumps(dict(request), sort_keys=True),
        "source": store_identity(source),
        "target": store_identity(target),
    }


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
        identity = stored.pop("identity")
        resolved.spec = from_dict(stored)
        for role, store in (("source", resolved.source), ("target", resolved.target)):
            if store is not None and identity.get(role) != store_identity(store):
                raise RunError(
                    f"the {role} data {store.path.name!r} changed since this run began ({run.path}). Begin anew with "
                    f"--out, or "
                    "bring the data back as they were."
                )
    accelerator = build_accelerator(resolved.spec.engine)
    for note in resolved.notes:
        reporter.say(note)
    if stored is None:
        resolved.spec, figures = measure(resolved, accelerator, reporter)
        run.begin(to_dict(resolved.spec), _identity(request, resolved.source, resolved.target), figures)
    reporter.say(f"run: {run.path}")
    context = Context(accelerator, resolved.spec.engine, run, request_hash(request), resolved.spec.seed, reporter)
    summary = _stages(resolved, context)
    _leave_together()
    return summary


def _leave_together() -> None:
    # a process that ends while another still talks to it is ended by an abort of the C++ side
    processes().wait_for_everyone()
    processes().destroy_process_group()


def _stages(resolved: Resolved, context: Context) -> dict[str, Any]:
    spec = resolved.spec
    threads = spec.engine.decode_threads or None
    assert resolved.source is not None
    decoder = open_decoder(spec.data.decoder, resolved.source, context.device, threads)
    task = build_task(spec)
    pretrain = _pretrain(task, decoder, spec, context)
    backbone = task.backbone
    results = _evaluate(backbone, resolved.target, spec, context) if resolved.target is not None else {}
    return _summarise(spec, backbone, pretrain, results, context)


def _evaluate(backbone: Backbone, store: Store, spec: RunSpec, context: Context) -> dict[str, Any]:
    threads = spec.engine.decode_threads or None
    name = spec.data.target_decoder
    target = open_target(open_decoder(name, store, context.device, threads))
    suite = Suite(backbone, target, spec, context)
    return {evaluation: suite.run(evaluation) for evaluation in spec.eval.names}


def _summarise(
    spec: RunSpec, backbone: Backbone, pretrain: dict[str, Any], results: dict[str, Any], context: Context
) -> dict[str, Any]:
    summary = {
        "spec": to_dict(spec),
        "backbone_parameters": num_parameters(backbone),
        "pretrain": pretrain,
        "evals": results,
        "seconds": pretrain["seconds"] + sum(result["seconds"] for result in results.values()),
        "directory": str(context.run.path),
    }
    if context.run.main:
        write_atomic(context.run.path / "summary.json", json.dumps(summary, indent=1))
    return summary


def evaluate_run(
    directory: Path, on: str, names: list[str], changes: Mapping[str, Any], reporter: Reporter
) -> dict[str, Any]:
    """Evaluates a finished run on a data set; results go into RUN/evals/DATASET and are never computed twice.

    Args:
        directory: the run's folder, or its name under `$VIDSSL_HOME/runs`.
        changes: "section.key" entries that replace those of the run.
    """
    folder = directory if directory.is_dir() else runs_dir() / directory
    pretrain = RunDirectory(folder).stage_result("pretrain")
    if pretrain is None or not (folder / "model.safetensors").exists():
        raise RunError(f"{directory} is no run with a finished pre-training. `vidssl list runs` shows those there are.")
    stored = RunDirectory(folder).stored() or {}
    stored.pop("identity", None)
    spec = override(from_dict(stored), changes)
    keep_freed_memory()
    main = processes().is_main_process
    reporter.quiet = reporter.quiet or not main
    store = _open_data(on, reporter)
    if spec.preset == "small" and "finetune.epochs" not in changes:
        videos = len(catalog.training_rows(store, "all"))
        spec = override(spec, {"finetune.epochs": presets.small_preset(spec.task.name, 1, videos)["finetune.epochs"]})
    request = {"run": folder.name, "on": on, **changes}
    run = RunDirectory(folder / "evals" / on.strip("/").replace("/", "_"), main)
    kept = run.stored()
    accelerator = build_accelerator(spec.engine)
    data = replace(spec.data, target=on, target_decoder="auto")
    spec = replace(spec, data=data, eval=replace(spec.eval, names=names))
    if kept is None:
        spec, figures = measure(Resolved(spec, None, store, []), accelerator, reporter)
        run.begin(to_dict(spec), _identity(request, None, store), figures)
    else:
        run.require_same(kept, request, request_hash(request))
        kept.pop("identity")
        spec = override(from_dict(kept), {"eval.names": names})
    context = Context(accelerator, spec.engine, run, request_hash(request), spec.seed, reporter)
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    load_backbone(backbone, folder / "model.safetensors")
    summary = _summarise(spec, backbone, pretrain, _evaluate(backbone, store, spec, context), context)
    _leave_together()
    return summary


def _pretrain(task: Task, decoder: Decoder, spec: RunSpec, context: Context) -> dict[str, Any]:
    run = context.run
    weights = run.path / "model.safetensors"
    done = run.stage_result("pretrain")
    if done is not None and weights.exists():
        load_backbone(task.backbone, weights)
        return done
    source = decoder.store
    rows = catalog.training_rows(source, spec.data.subset)
    trained = Trainer("pretrain", task, spec.pretrain, decoder, rows, context).fit()
    test = source.indices("test")
    tested = evaluate_pretext(
        task, decoder, test if len(test) else rows, context, spec.eval.pretext_repeats, spec.eval.batch
    )
    if trained["extended_clips"]:
        share = trained["extended_clips"] / max(1, trained["clips"])
        context.reporter.say(
            f"pretrain: {100 * share:.0f} % of the clips came from videos too short for them and were extended"
        )
    result = {**tested, **trained, "videos_trained": len(rows), "tested_on": "test" if len(test) else "train"}
    if run.main:
        state = {key: value.contiguous() for key, value in task.backbone.state_dict().items()}
        write_atomic(weights, save(state, {"spec": json.dumps(to_dict(spec))}))
    run.finish_stage("pretrain", result)
    return result


def load_backbone(backbone: Backbone, path: Path) -> None:
    """Loads our own weights file, every tensor or none."""
    try:
        backbone.load_state_dict(load_file(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} does not fit this backbone or is damaged: {str(error).splitlines()[0]}.") from error
