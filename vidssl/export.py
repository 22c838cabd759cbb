"""`vidssl export`: a run's network in one file for other programs, with a model card beside it.

safetensors   the weights, under the names of `load_weights`, with the spec in the file's metadata.
torch-export  a program of `torch.export`; needs torch alone to run.
onnx          a graph; needs an ONNX runtime alone to run. Written with `torch.onnx.export` from the same program.

The two programs take `clip`, float32 [B, 3, T, H, W] in 0 to 1 with any B, and give `feature` [B, D] (the pooled map)
or, of a fine-tuned network, `logits` [B, classes]; what a network subtracts and divides by is inside. T, H and W are
those of the run: attention, padding and pooling are laid out for them.

Every file is opened again before it gets its name, and compared with the network on the processor in float32.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from .backbones import create_backbone
from .backbones.base import Backbone
from .backbones.weights import load_weights
from .engine.progress import Reporter
from .engine.runs import output_error, write_atomic
from .errors import ConfigError, EnvironmentProblem, RunError, unknown_name
from .evals.classify import Classify
from .evals.finetune import WEIGHTS
from .evals.predictions import Predictions
from .finetuned import find_evaluation, sha256
from .pretrained import open_run, run_folder, run_spec
from .report.card import Artifact, card, public_spec
from .spec import RunSpec
from .tasks.base import ClipSpec

SUFFIXES = {"safetensors": ".safetensors", "torch-export": ".pt2", "onnx": ".onnx"}

TOLERANCE = 1e-4
"""Largest difference that passes, as a share of the largest output; float32 sums in another order differ by 1e-6."""

BATCHES = (1, 3)
"""Sizes that a file is tried with. Programs are traced with another, so that one fixed by the tracing shows."""

_TRACED = 2

Network = Callable[[torch.Tensor], torch.Tensor]


def export_verb(run: Path, format: str, out: Path, classifier: str | None, as_json: bool) -> None:
    """Exports and says what was found. Raises VidsslError; a mistake in a name is found before anything is read."""
    made = export(run, format, out, classifier, Reporter())
    if as_json:
        print(json.dumps({**made.to_dict(), "out": str(out)}))


def export(run: Path, format: str, out: Path, classifier: str | None, reporter: Reporter) -> Artifact:
    """Writes OUT and its model card OUT.md.

    Args:
        run: a run's folder, or its name under `$VIDSSL_HOME/runs`.
        format: a key of `SUFFIXES`; `out` ends accordingly.
        classifier: which fine-tuned network, backbone and classifier, instead of the pre-trained backbone: the folder
            of an evaluation, or the name of its data set as `vidssl eval --on` takes it.

    Raises:
        ConfigError: an unknown format; a name that does not fit it.
        RunError: no finished run; no fine-tuned network there, or of another run; `out` or its card is there already;
            the file does not compute what the network does, and is then removed.
        EnvironmentProblem: a package is missing; `out` cannot be written.
    """
    if format not in SUFFIXES:
        raise unknown_name("format", format, SUFFIXES)
    if out.suffix != SUFFIXES[format]:
        raise ConfigError(f"--out {out.name!r} is no name for {format}: it ends with {SUFFIXES[format]!r}.")
    beside = out.with_name(f"{out.name}.md")
    for file in (out, beside):
        if file.exists():
            raise RunError(f"{file} is there already and was left as it is. Choose another --out, or remove it.")
    for package in ("onnx", "onnxscript") if format == "onnx" else ():
        _package(package)
    folder = run_folder(run)
    evaluation = None if classifier is None else find_evaluation(folder, classifier)
    model, spec, classes = _pretrained(folder) if evaluation is None else _finetuned(evaluation)
    clip = ClipSpec(spec.data.frames, spec.data.size)
    write, reopen = _WAYS[format]
    about = {"spec": public_spec(spec), "classes": classes}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # a folder beside it, because a file of weights is known by its suffix
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as drafts:
            draft = Path(drafts) / out.name
            with torch.no_grad():
                write(model, clip, draft, about)
                again, reader = reopen(draft, model, spec)
                difference, largest = _compare(_answer(model), again, clip, spec.seed)
            if not difference <= TOLERANCE * largest:
                raise RunError(
                    f"{format} of this network is refused: read again by {reader} it differs from the network by up to "
                    f"{difference:.2g}, of outputs up to {largest:.2g}; allowed: {TOLERANCE:g} of that. Nothing was "
                    "written. Try another --format."
                )
            made = Artifact(
                file=out.name,
                format=format,
                sha256=sha256(draft),
                bytes=draft.stat().st_size,
                width=model.args.num_classes if isinstance(model, Classify) else model.feature_dim,
                classes=classes,
                difference=difference,
                largest=largest,
                tolerance=TOLERANCE,
                batches=BATCHES,
                reader=reader,
            )
            write_atomic(beside, card(folder, made, spec, evaluation))
            with draft.open("rb") as handle:
                os.fsync(handle.fileno())
            draft.replace(out)
    except OSError as error:
        raise output_error(out, error) from error
    reporter.say(
        f"{out}: {made.bytes / 1e6:.1f} MB; read again by {reader} it differs by at most {difference:.2g} from the "
        f"network, of outputs up to {largest:.2g} (batches of {' and '.join(map(str, BATCHES))}); card: {beside}"
    )
    return made


def _pretrained(folder: Path) -> tuple[Backbone, RunSpec, None]:
    opened = open_run(folder, {})
    return opened.backbone, opened.spec, None


def _finetuned(evaluation: Path) -> tuple[Classify, RunSpec, list[str]]:
    """The network that an evaluation fine-tuned, the evaluation's spec, and the classes' names."""
    spec, classes = run_spec(evaluation), Predictions.load(evaluation / "predictions" / "finetune.npz").classes
    task = _classify(spec, len(classes))
    task.load_state_dict(load_file(evaluation / WEIGHTS))
    return task, spec, classes


def _classify(spec: RunSpec, num_classes: int) -> Classify:
    backbone = create_backbone(spec.backbone.name, **spec.backbone.options)
    return Classify(backbone, ClipSpec(spec.data.frames, spec.data.size), Classify.Args(num_classes)).eval()


def _answer(model: Backbone | Classify) -> Network:
    return model.logits if isinstance(model, Classify) else model.pooled


class _Program(nn.Module):
    """What is traced: clips in 0 to 1 to features or logits."""

    def __init__(self, model: Backbone | Classify) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return _answer(self.model)(clip)


_SHAPES = {"clip": {0: torch.export.Dim("batch")}}


def _trace(model: Backbone | Classify, clip: ClipSpec) -> torch.export.ExportedProgram:
    program = torch.export.export(_Program(model).eval(), (_clips(clip, _TRACED, 0),), dynamic_shapes=_SHAPES)
    program.example_inputs = None  # the clips would be saved with it
    return program


def _write_safetensors(model: Backbone | Classify, clip: ClipSpec, draft: Path, about: dict[str, Any]) -> None:
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    draft.write_bytes(save(state, {key: json.dumps(value) for key, value in about.items()}))


def _reopen_safetensors(draft: Path, model: Backbone | Classify, spec: RunSpec) -> tuple[Network, str]:
    again: Backbone | Classify
    if isinstance(model, Classify):
        again = _classify(spec, model.args.num_classes)
    else:
        again = create_backbone(spec.backbone.name, **spec.backbone.options).eval()
    load_weights(again, draft)
    return _answer(again), "vidssl.load_weights"


def _write_torch_export(model: Backbone | Classify, clip: ClipSpec, draft: Path, about: dict[str, Any]) -> None:
    torch.export.save(_trace(model, clip), draft, extra_files={"vidssl.json": json.dumps(about)})


def _reopen_torch_export(draft: Path, model: Backbone | Classify, spec: RunSpec) -> tuple[Network, str]:
    return torch.export.load(draft).module(), f"torch {torch.__version__}"


def _write_onnx(model: Backbone | Classify, clip: ClipSpec, draft: Path, about: dict[str, Any]) -> None:
    output = "logits" if isinstance(model, Classify) else "feature"
    told, level = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    told.setLevel(logging.ERROR)  # it speaks of operators of torchvision that nothing here has
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.onnx.export(
                _trace(model, clip),
                dynamo=True,
                verbose=False,
                input_names=["clip"],
                output_names=[output],
                dynamic_shapes=_SHAPES,
            )
    finally:
        told.setLevel(level)
    assert program is not None
    program.model.metadata_props["vidssl"] = json.dumps(about)
    program.save(draft, external_data=False)


def _reopen_onnx(draft: Path, model: Backbone | Classify, spec: RunSpec) -> tuple[Network, str]:
    _package("onnx").checker.check_model(draft)
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        onnx = _package("onnx")
        evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(str(draft))
        return lambda x: torch.from_numpy(evaluator.run(None, {"clip": x.numpy()})[0]), f"onnx {onnx.__version__}"
    session = runtime.InferenceSession(draft, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"clip": x.numpy()})[0]), f"onnxruntime {runtime.__version__}"


_WAYS = {
    "safetensors": (_write_safetensors, _reopen_safetensors),
    "torch-export": (_write_torch_export, _reopen_torch_export),
    "onnx": (_write_onnx, _reopen_onnx),
}


def _clips(clip: ClipSpec, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, clip.frames, clip.size, clip.size, generator=generator)


def _compare(network: Network, again: Network, clip: ClipSpec, seed: int) -> tuple[float, float]:
    """The largest difference over seeded clips in `BATCHES`, nan where one has nan, and the largest output."""
    differing, largest = [], []
    for count in BATCHES:
        x_BCTHW = _clips(clip, count, seed + count)
        wanted, got = network(x_BCTHW), again(x_BCTHW)
        if wanted.shape != got.shape:
            raise RunError(
                f"the file gives {tuple(got.shape)} where the network gives {tuple(wanted.shape)}; not written."
            )
        differing.append((wanted - got).abs().max())
        largest.append(wanted.abs().max())
    return float(torch.stack(differing).max()), float(torch.stack(largest).max())


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentProblem(
            f"--format onnx needs the package {name}: pip install 'vidssl[export]' (onnx, onnxscript, onnxruntime). "
            f"The formats {', '.join(key for key in SUFFIXES if key != 'onnx')} need nothing more."
        ) from error
