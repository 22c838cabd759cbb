"""Evaluations: those that end a run, those of a finished run on other data, those of weights without a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import presets
from .backbones import create_backbone
from .backbones.base import Backbone, num_parameters
from .backbones.weights import Loaded, load_weights
from .data import catalog
from .data.decode import open_decoder
from .data.store import Store
from .engine.progress import Reporter
from .engine.runs import RunDirectory, write_atomic
from .engine.setup import build_accelerator, keep_freed_memory, resolve_engine
from .engine.trainer import Context
from .errors import ConfigError
from .evals.names import EVALS
from .evals.over_splits import mean_over_splits
from .evals.protocols import with_protocol
from .evals.suite import Suite, check_evaluations
from .evals.target import open_target
from .home import runs_dir
from .pretrained import Pretrained, open_run, run_folder
from .resolve import (
    Resolved,
    choose_preset,
    identity,
    leave_together,
    measure,
    open_data,
    processes,
    read_weights,
    request_hash,
    require_unchanged,
)
from .spec import RunSpec, complete_options, from_dict, override, signature_options, to_dict

ALL_SPLITS = "all"
"""`--on ucf101:all` is each of its official splits, and their mean."""


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
        results[f"cka-{other.folder.name}"] = suite.compare_with(other.backbone, other.folder.name)
    return results


def summarise(
    spec: RunSpec,
    backbone: Backbone,
    pretrain: dict[str, Any] | None,
    weights: Loaded | None,
    results: dict[str, Any],
    context: Context,
) -> dict[str, Any]:
    """Writes summary.json and returns it.

    Args:
        pretrain: the result of the pre-training; None for weights that were not pre-trained here.
        weights: the file that training or evaluation began with; None where weights were drawn.
    """
    summary = {
        "spec": to_dict(override(spec, {"eval.names": [name for name in EVALS if name in results]})),
        "backbone_parameters": num_parameters(backbone),
        "weights": weights.to_dict() if weights else None,
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


def evaluate_splits(
    base: str, evaluate_on: Callable[[str, Path | None], dict[str, Any]], out: Path | None, reporter: Reporter
) -> dict[str, Any]:
    """Evaluates on each official split of a data set, each in its own folder, and writes their mean beside them, into
    `DATASET_splits.json`.

    Raises ConfigError where the data set has a single split.
    """
    splits = open_data(base, reporter).official_splits
    if len(splits) < 2:
        raise ConfigError(f"data set {base!r} has a single official split: `--on {base}`.")
    found = {}
    for split in splits:
        reporter.say(f"official split {split} of {', '.join(splits)}")
        found[split] = evaluate_on(f"{base}:{split}", out and out / f"split{split}")
    first = found[splits[0]]
    evals = mean_over_splits({split: summary["evals"] for split, summary in found.items()})
    folder = Path(first["directory"]).parent
    file = folder / f"{_file_name(base)}_splits.json"
    summary = {
        **first,
        "spec": {**first["spec"], "data": {**first["spec"]["data"], "target": f"{base}:{ALL_SPLITS}"}},
        "evals": evals,
        "seconds": sum(each["seconds"] for each in found.values()),
        "directory": str(folder),
        "splits": {split: each["directory"] for split, each in found.items()},
    }
    if processes().is_main_process:
        write_atomic(file, json.dumps(summary, indent=1))
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
    own = out is None and not changes and on == spec.data.target
    own = own and (spec.engine.precision != "bf16" or torch.cuda.is_available())
    if spec.engine.precision == "bf16" and not torch.cuda.is_available():  # pre-trained on a GPU, evaluated without
        spec = replace(spec, engine=replace(spec.engine, precision="auto", compile="auto", layout="auto"))
    entries = with_protocol(changes)
    spec = override(spec, entries)
    spec = replace(spec, engine=resolve_engine(spec.engine, torch.cuda.is_available()))
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    load_weights(backbone, folder / "model.safetensors", input=backbone.input)
    store = open_data(on, reporter)
    if spec.preset == "small":
        spec = override(spec, _small(spec, store, entries, ("finetune.epochs",)))
    resolved = Resolved(spec, None, store)
    if own:
        place, request = folder, json.loads(made_by["requested"])
    else:
        place, request = out or _place(folder, on), {"run": folder.name, "on": on, **changes}
    return _evaluate(resolved, backbone, pretrain, request, place, on, names, reporter, against)


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
    given = {
        "backbone.name": name,
        "init.weights": str(path.expanduser().absolute()),
        "init.allow_pickle": allow_pickle,
    }
    entries = with_protocol(changes)
    spec = override(RunSpec(), {"task.name": "none", "data.source": "none", **entries, **given})
    backbone, weights = read_weights(spec)
    store = open_data(on, reporter)
    preset, notes = choose_preset(spec.preset, on, torch.cuda.is_available())
    if preset == "small":
        spec = override(spec, _small(spec, store, entries, ("data.", "finetune.")))
    options = complete_options(spec.backbone, signature_options(type(backbone)), "backbone").options
    spec = replace(
        spec,
        preset=preset,
        backbone=replace(spec.backbone, options={**options, "input": weights.input}),
        engine=resolve_engine(spec.engine, torch.cuda.is_available()),
    )
    resolved = Resolved(spec, None, store, backbone, weights, [weights.line(), *notes])
    request = {"weights": weights.sha256, "backbone": name, "on": on, **changes}
    folder = runs_dir() / f"weights-{name}-{weights.sha256[:8]}"
    return _evaluate(resolved, backbone, None, request, out or _place(folder, on), on, names, reporter, against)


def _place(folder: Path, on: str) -> Path:
    return folder / "evals" / _file_name(on)


def _file_name(on: str) -> str:
    """`ucf101:2` -> `ucf101_split2`; the path of a store in one piece."""
    name, split = catalog.split_of(on)
    return name.strip("/").replace("/", "_") + (f"_split{split}" if split else "")


def _small(spec: RunSpec, store: Store, changes: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    """The small preset's entries that concern an evaluation on this store, but for those set by hand."""
    entries = presets.small_preset(spec.task.name, 1, len(catalog.training_rows(store, "all")))
    return {key: value for key, value in entries.items() if key.startswith(wanted) and key not in changes}


def _evaluate(
    resolved: Resolved,
    backbone: Backbone,
    pretrain: dict[str, Any] | None,
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
    spec, store = resolved.spec, resolved.target
    assert store is not None
    checked = [*names, *(["cka"] if against else [])]
    check_evaluations(override(spec, {"eval.names": checked}), store)
    accelerator = build_accelerator(spec.engine)
    if kept is None:
        data = replace(spec.data, target=on, target_decoder="auto")
        resolved.spec = replace(spec, data=data, eval=replace(spec.eval, names=names))
        spec, figures = measure(resolved, accelerator, reporter)
        run.begin(to_dict(spec), identity(request, resolved), figures)
    else:
        run.require_same(kept, dict(request), request_hash(request))
        require_unchanged(run, kept.pop("identity"), resolved)
        spec = override(from_dict(kept), {"eval.names": names})
    context = Context(accelerator, spec.engine, run, request_hash(request), spec.seed, reporter)
    results = run_evaluations(backbone, store, spec, context, against)
    return summarise(spec, backbone, pretrain, resolved.weights, results, context)
