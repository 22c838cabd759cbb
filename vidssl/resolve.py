"""From what was asked to what will be done: presets, "auto", stores, weights to begin with, and their identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list

from . import presets
from .backbones import BACKBONES, create_backbone
from .backbones.base import Backbone
from .backbones.weights import Loaded, load_weights
from .data import catalog
from .data.decode.auto import choose_decoder
from .data.store import Store
from .engine.optim import check_warmup
from .engine.progress import Reporter
from .engine.runs import RunDirectory
from .engine.setup import faster_layout, resolve_engine
from .errors import ConfigError, RunError
from .evals.protocols import with_protocol
from .evals.suite import check_evaluations
from .options import Named, complete_options, dataclass_options, signature_options
from .spec import RunSpec, override
from .tasks import TASKS
from .tasks.base import ClipSpec
from .transforms.augment import AugmentationArgs
from .transforms.views import ViewArgs, without_effect


@dataclass
class Resolved:
    """A spec without "auto", and what it speaks of.

    Attributes:
        source, target: stores; `target` is None where nothing is evaluated, `source` where nothing is pre-trained.
        initial: a backbone with the weights to begin with, None where they are drawn.
        weights: where those came from.
        notes: what the user should know of the choices made.
    """

    spec: RunSpec
    source: Store | None
    target: Store | None
    initial: Backbone | None = None
    weights: Loaded | None = None
    notes: list[str] = field(default_factory=list)


def request_hash(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()[:8]


def processes() -> PartialState:
    """The processes of this run, before Accelerate is built: its settings are part of what is resolved."""
    return PartialState(cpu=not torch.cuda.is_available())


def resolve(request: Mapping[str, Any], reporter: Reporter) -> Resolved:
    """Fills in everything but what must be measured (decoder, layout). Raises ConfigError, DataError."""
    notes: list[str] = []
    on_gpu = torch.cuda.is_available()
    spec = override(RunSpec(), request)
    task, backbone = TASKS.get(spec.task.name), BACKBONES.get(spec.backbone.name)
    initial, weights, changes = None, None, dict(task.recipe)
    if spec.init.weights:  # before any data are prepared
        initial, weights = read_weights(spec)
        notes.append(weights.line())
        changes["backbone.input"] = weights.input
    source_name = spec.data.source if spec.data.source != "auto" else catalog.default_source()
    if spec.data.source == "auto":
        notes.append(f"no --data given: using {source_name!r}")
    source = open_data(source_name, reporter)
    rows = catalog.training_rows(source, spec.data.subset)
    target_name, wanted = spec.data.target, spec.eval.names
    if target_name == "auto":
        target_name = source_name
        if wanted and ((source.labels < 0).any() or not len(source.indices("test"))):
            notes.append(
                f"{source_name!r} has no labels or no test split: nothing is evaluated on it (choose one with --target)"
            )
            wanted = []
    target = open_data(target_name, reporter) if wanted else None
    preset, why = choose_preset(spec.preset, source_name, on_gpu)
    notes += why
    if preset == "small":
        finetune_videos = len(catalog.training_rows(target, "all")) if target else 1
        changes |= presets.small_preset(spec.task.name, len(rows), finetune_videos, request)
    else:
        changes |= presets.paper_preset(task.recipe, request)
    spec = override(RunSpec(), {**changes, **with_protocol(request)})
    check_levels(spec.task.name, request)
    spec = replace(
        spec,
        preset=preset,
        task=complete_options(spec.task, dataclass_options(task.Args), "task"),
        backbone=complete_options(spec.backbone, signature_options(backbone), "backbone"),
        data=replace(spec.data, source=source_name, target=target_name if target else "none"),
        eval=replace(spec.eval, names=list(wanted)),
        engine=resolve_engine(spec.engine, on_gpu),
    )
    spec = replace(spec, task=check_augmentation(spec.task, task.Args, request))
    backbone.check_clip(spec.data.frames, spec.data.size, spec.data.size)
    check_warmup("pretrain", spec.pretrain)
    if target is not None:
        check_evaluations(spec, target)
    return Resolved(spec, source, target, initial, weights, notes)


def check_levels(task: str, request: Mapping[str, Any]) -> None:
    """Raises ConfigError where a level of complexity was asked for of a task that has none."""
    if "task.complexity" not in request:
        return
    having = [name for name in TASKS.names() if "complexity" in dataclass_options(TASKS.get(name).Args)]
    if task not in having:
        raise ConfigError(
            f"complexity={request['task.complexity']}, and {task} has no levels of complexity; {', '.join(having)} "
            "have them. Leave it out, or take one of these tasks."
        )


def check_augmentation(task: Named, args: type, request: Mapping[str, Any]) -> Named:
    """The task with the settings of its augmentation that its recipe uses: "original" has the method's own.

    Raises ConfigError where one was asked for that would have no effect.
    """
    asked = sorted(key.removeprefix("task.") for key in request if key.startswith("task."))
    if task.options.get("recipe") != "original":
        built = args(**task.options)
        idle = [key for key in asked if isinstance(built, ViewArgs) and key in without_effect(built)]
        if idle:
            raise ConfigError(
                f"task.{idle[0]} has no effect with task.geometry={built.geometry} and the probabilities given. Leave "
                "it out, or set the geometry (shared: rotation_degrees; resized: area, aspect) or the probability "
                "(jitter_probability, blur, gamma_probability, erase) that it belongs to."
            )
        return task
    others = {field.name for base in (AugmentationArgs, ViewArgs) if issubclass(args, base) for field in fields(base)}
    unused = [key for key in asked if key in others]
    if unused:
        begun = (
            f"task.{unused[0]} belongs to the benchmark's augmentation, and {task.name} has recipe=original, which has "
            "its own"
        )
        if "task.recipe" not in request:
            raise ConfigError(
                f"{begun}: the preset 'small' chose it. Leave task.{unused[0]} out, or add --set task.recipe=paper."
            )
        raise ConfigError(f"{begun}. Leave one of the two out, or take --set task.recipe=paper.")
    return replace(task, options={key: value for key, value in task.options.items() if key not in others})


def choose_preset(asked: str, data: str, on_gpu: bool) -> tuple[str, list[str]]:
    """The preset, and why where it was chosen and is not the benchmark's."""
    if asked != "auto":
        return asked, []
    embedded = catalog.split_of(data)[0].partition("-")[0] == catalog.EMBEDDED
    if on_gpu and not embedded:
        return "paper", []
    why = "for the embedded data" if embedded else "because there is no GPU"
    return "small", [f"preset 'small' {why} (64 px, few epochs); --preset paper gives the benchmark's protocol"]


def read_weights(spec: RunSpec) -> tuple[Backbone, Loaded]:
    """The spec's backbone with the weights to begin with. The input is the file's, unless the spec says one."""
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    given = spec.backbone.options.get("input")
    return backbone, load_weights(backbone, spec.init.weights, spec.init.allow_pickle, given)


def open_data(name: str, reporter: Reporter) -> Store:
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


def identity(request: Mapping[str, Any], resolved: Resolved) -> dict[str, str]:
    """What a folder of results must be of, to be gone on with."""
    return {
        "request": request_hash(request),
        "requested": json.dumps(dict(request), sort_keys=True),
        "source": resolved.source.fingerprint() if resolved.source else "none",
        "target": resolved.target.fingerprint() if resolved.target else "none",
        "source_labels": resolved.source.labels_fingerprint() if resolved.source else "none",
        "target_labels": resolved.target.labels_fingerprint() if resolved.target else "none",
        **({"weights": resolved.weights.sha256} if resolved.weights else {}),
    }


def require_unchanged(run: RunDirectory, stored: Mapping[str, str], resolved: Resolved) -> None:
    """Raises RunError where the data or the file of weights are no longer those that a folder was begun with."""
    present: dict[str, tuple[Any, str]] = {}
    for role, store in (("source", resolved.source), ("target", resolved.target)):
        if store is not None:
            present[role] = f"the {role} data {store.path.name!r}", store.fingerprint()
            if f"{role}_labels" in stored:  # older runs do not say
                what = f"labels or splits of the {role} data {store.path.name!r}"
                present[f"{role}_labels"] = what, store.labels_fingerprint()
    if resolved.weights is not None:
        present["weights"] = f"the file of weights {resolved.weights.path}", resolved.weights.sha256
    for role, (what, now) in present.items():
        if stored.get(role) != now:
            raise RunError(
                f"{what} changed since this run began ({run.path}). Begin anew with --out, or bring back what was "
                "there."
            )


def leave_together() -> None:
    """Ends the processes of a run at one time: one that ends while another still talks to it is ended by an abort of
    the C++ side."""
    processes().wait_for_everyone()
    processes().destroy_process_group()
