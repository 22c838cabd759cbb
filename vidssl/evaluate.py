"""Evaluations: those that end a run, those of a finished run on other data, those of weights without a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import presets
from .backbones import create_backbone
from .backbones.base import Backbone, num_parameters
from .backbones.weights import load_weights
from .data import catalog
from .data.decode import open_decoder
from .data.store import Store
from .engine.context import Context
from .engine.progress import Reporter
from .engine.runs import RunDirectory, write_atomic
from .engine.setup import build_accelerator, keep_freed_memory, resolve_engine
from .errors import ConfigError, RunError
from .evals.names import EVALS
from .evals.over_splits import ALL_SPLITS, evaluate_splits
from .evals.protocols import with_protocol
from .evals.suite import Suite, check_evaluations
from .evals.target import open_target
from .home import runs_dir
from .pretrained import Pretrained, open_run, open_weights, run_folder
from .resolve import (
    Resolved,
    choose_preset,
    identity,
    leave_together,
    measure,
    open_data,
    processes,
    request_hash,
    require_unchanged,
)
from .spec import RunSpec, from_dict, override, to_dict


def run_evaluations(
    backbone: Backbone, store: Store, spec: RunSpec, context: Context, against: Sequence[Pretrained] = ()
) -> dict[str, Any]:
    """The spec's evaluations on a data set: name -> result; `cka-RUN` for each network that this one's layers are
    compared with."""
    decoder = open_decoder(spec.data.target_decoder, store, context.device, spec.engine.decode_threads or None)
    suite = Suite(backbone, open_target(decoder), spec, context)
    results = suite.run_all()
    for other in against:
        assert other.folder is not None
        # two runs may have one name, and one name two trainings
        name = f"{other.folder.name}-{other.weights.sha256[:8]}"
        results[f"cka-{name}"] = suite.compare_with(other.backbone, name)
    return results


def summarise(
    spec: RunSpec,
    backbone: Backbone,
    pretrain: dict[str, Any] | None,
    weights: dict[str, Any] | None,
    results: dict[str, Any],
    context: Context,
) -> dict[str, Any]:
    """Writes summary.json and returns it.

    Args:
        pretrain: the result of the pre-training; None for weights that were not pre-trained here.
        weights: the file that training or evaluation began with, `Loaded.to_dict`; None where weights were drawn.
    """
    summary = {
        "spec": to_dict(override(spec, {"eval.names": [name for name in EVALS if name in results]})),
        "backbone_parameters": num_parameters(backbone),
        "weights": weights,
        "pretrain": pretrain,
        "evals": results,
        "seconds": sum(stage["seconds"] for stage in [*([pretrain] if pretrain else []), *results.values()]),
        "directory": str(context.run.path),
    }
    if context.run.main:
        write_atomic(context.run.path / "summary.json", json.dumps(summary, indent=1))
    return summary


def evaluate(
    run: Path | None,
    weights: Path | None,
    backbone: str | None,
    allow_pickle: bool,
    on: str,
    names: list[str],
    changes: Mapping[str, Any],
    out: Path | None,
    reporter: Reporter,
    against: Sequence[Path] = (),
) -> dict[str, Any]:
    """What `vidssl eval` was told: a run, or weights and the backbone that they are of.

    Args:
        against: runs whose layers are compared with this network's by CKA.
    """
    if (run is None) == (weights is None):
        raise ConfigError(
            "eval takes a run or a file of weights, one of the two: `vidssl eval RUN --on DATA`, or `vidssl eval "
            "--weights FILE --backbone NAME --on DATA`. `vidssl list runs` shows the runs."
        )
    if weights is None and (backbone is not None or allow_pickle):
        raise ConfigError("--backbone and --allow-pickle go with --weights FILE; a run knows its own backbone.")
    if weights is not None and backbone is None:
        raise ConfigError("--weights needs --backbone NAME, the network they are of; see `vidssl list backbones`.")
    reporter.quiet = reporter.quiet or not processes().is_main_process
    others = [open_run(other, {}) for other in against]

    def evaluate_on(name: str, place: Path | None) -> dict[str, Any]:
        if run is not None:
            return evaluate_run(run, name, names, changes, place, reporter, others)
        assert weights is not None
        assert backbone is not None
        return evaluate_weights(weights, backbone, allow_pickle, name, names, changes, place, reporter, others)

    base, split = catalog.split_of(on)
    several = split == ALL_SPLITS
    summary = evaluate_splits(base, evaluate_on, out, reporter) if several else evaluate_on(on, out)
    leave_together()
    return summary


def evaluate_run(
    directory: Path,
    on: str,
    names: list[str],
    changes: Mapping[str, Any],
    out: Path | None,
    reporter: Reporter,
    against: Sequence[Pretrained] = (),
) -> dict[str, Any]:
    """Evaluates a finished run on a data set; results are never computed twice.

    They go into RUN/evals/DATASET; into RUN itself where it was asked to evaluate on that data set and nothing is
    changed, so that what it has fine-tuned already is used.

    Args:
        directory: the run's folder, or its name under `$VIDSSL_HOME/runs`.
        changes: "section.key" entries that replace those of the run.
        out: another folder for the results.
    """
    folder = run_folder(directory)
    pretrain = RunDirectory(folder).stage_result("pretrain")
    stored = RunDirectory(folder).stored() or {}
    made_by = stored.pop("identity", {})
    spec = from_dict(stored)
    own = out is None and not changes and catalog.same_data(on, spec.data.target)
    own = own and (spec.engine.precision != "bf16" or torch.cuda.is_available())
    if spec.engine.precision == "bf16" and not torch.cuda.is_available():  # pre-trained on a GPU, evaluated without
        spec = replace(spec, engine=replace(spec.engine, precision="auto", compile="auto", layout="auto"))
    requested = json.loads(made_by["requested"])
    entries = with_protocol(changes)
    pretrained_on = spec.data.source, spec.data.subset
    spec = override(spec, entries)
    spec = replace(spec, engine=resolve_engine(spec.engine, torch.cuda.is_available()))
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    loaded = load_weights(backbone, folder / "model.safetensors", input=backbone.input)
    store = open_data(on, reporter)
    if spec.preset == "small":
        # what the run was told by hand it keeps
        wanted = ("finetune.epochs", "finetune.warmup_epochs")
        spec = override(spec, _small(spec, store, {**with_protocol(requested), **entries}, wanted))
    resolved = Resolved(spec, None, store, notes=_seen_before(*pretrained_on, on, store, reporter))
    if own:
        place, request = folder, requested
    else:
        place = out or _place(folder, on)
        request = {"run": folder.resolve().name, "weights": loaded.sha256, "on": on, **changes}
    summary = folder / "summary.json"
    begun_with = json.loads(summary.read_text())["weights"] if summary.exists() else None
    return _evaluate(resolved, backbone, pretrain, begun_with, request, place, on, names, reporter, against)


def evaluate_weights(
    path: Path,
    name: str,
    allow_pickle: bool,
    on: str,
    names: list[str],
    changes: Mapping[str, Any],
    out: Path | None,
    reporter: Reporter,
    against: Sequence[Pretrained] = (),
) -> dict[str, Any]:
    """Evaluates a file of weights; results go into `$VIDSSL_HOME/runs/weights-BACKBONE-HASH/evals/DATASET`, HASH being
    the file's, and are never computed twice.

    Args:
        path, allow_pickle: see `load_weights`.
        name: of the backbone; its options are among the changes.
        changes: "section.key" entries that replace those of the preset.
        out: another folder for the results.
    """
    entries = with_protocol(changes)
    opened = open_weights(path, name, allow_pickle, entries)
    spec, weights = opened.spec, opened.weights
    store = open_data(on, reporter)
    preset, notes = choose_preset(spec.preset, on, torch.cuda.is_available())
    if preset == "small":
        spec = override(spec, _small(spec, store, entries, ("data.", "finetune.")))
    spec = replace(spec, preset=preset, engine=resolve_engine(spec.engine, torch.cuda.is_available()))
    resolved = Resolved(spec, None, store, opened.backbone, weights, [weights.line(), *notes])
    request = {"weights": weights.sha256, "backbone": name, "on": on, **changes}
    folder = runs_dir() / f"weights-{name}-{weights.sha256[:8]}"
    place, begun_with = out or _place(folder, on), weights.to_dict()
    return _evaluate(resolved, opened.backbone, None, begun_with, request, place, on, names, reporter, against)


def _seen_before(source: str, subset: str, on: str, store: Store, reporter: Reporter) -> list[str]:
    """Says where the pre-training saw test videos, without their labels: official splits share theirs."""
    base = catalog.split_of(source)[0]
    if base != catalog.split_of(on)[0]:
        return []
    pretrained_on = open_data(source, reporter)
    rows = catalog.training_rows(pretrained_on, subset)
    seen = int(np.isin(store.keys[store.indices("test")], pretrained_on.keys[rows]).sum())
    if not seen:
        return []
    return [
        f"note: {seen} of {len(store.indices('test'))} test videos of {on!r} were among those that the network was "
        f"pre-trained on ({source!r}), without their labels"
    ]


def _place(folder: Path, on: str) -> Path:
    return folder / "evals" / catalog.folder_name(on)


def _small(spec: RunSpec, store: Store, changes: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    """The small preset's entries that concern an evaluation on this store, but for those set by hand."""
    entries = presets.small_preset(spec.task.name, 1, len(catalog.training_rows(store, "all")), changes)
    return {key: value for key, value in entries.items() if key.startswith(wanted) and key not in changes}


def _evaluate(
    resolved: Resolved,
    backbone: Backbone,
    pretrain: dict[str, Any] | None,
    begun_with: dict[str, Any] | None,
    request: Mapping[str, Any],
    out: Path,
    on: str,
    names: list[str],
    reporter: Reporter,
    against: Sequence[Pretrained],
) -> dict[str, Any]:
    data = resolved.spec.data
    for network in (backbone, *(other.backbone for other in against)):
        network.check_clip(data.frames, data.size, data.size)
    keep_freed_memory()
    for note in resolved.notes:
        reporter.say(note)
    run = RunDirectory(out, processes().is_main_process)
    kept = run.stored()
    processes().wait_for_everyone()  # before one of them writes what the others look for
    spec, store = resolved.spec, resolved.target
    assert store is not None
    checked = [*names, *(["cka"] if against else [])]
    check_evaluations(override(spec, {"eval.names": checked}), store)
    if kept is not None:
        run.require_same(kept, dict(request), request_hash(request))
        require_unchanged(run, kept.pop("identity"), resolved)
        spec = override(from_dict(kept), {"eval.names": names})
        if spec.engine.precision == "bf16" and not torch.cuda.is_available():
            raise RunError(
                f"{run.path} was begun in bf16 on a GPU, and there is none here. Go on with it where there is one, or "
                "begin anew with --out."
            )
    accelerator = build_accelerator(spec.engine)
    if kept is None:
        data = replace(spec.data, target=on, target_decoder="auto")
        resolved.spec = replace(spec, data=data, eval=replace(spec.eval, names=names))
        spec, figures = measure(resolved, accelerator, reporter)
        run.begin(to_dict(spec), identity(request, resolved), figures)
    context = Context(accelerator, spec.engine, run, request_hash(request), spec.seed, reporter)
    results = run_evaluations(backbone, store, spec, context, against)
    return summarise(spec, backbone, pretrain, begun_with, results, context)
