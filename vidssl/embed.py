"""`vidssl embed`: a pre-trained backbone's features of every video of a prepared set, in one file with their ids.

Clips are those of the evaluations (`evals.features`): evenly spaced, consecutive frames, centre crop. The work is done
in pieces of `PIECE` videos, kept beside the output until it is whole: FILE.pieces/request.json says of what, and with
what they were begun; FILE.pieces/00000200.npy holds the videos from the 200th on. A piece is computed by one process
in the same batches whoever computes it, so that a call that was stopped and given again, on one process or on several,
writes the same bytes on one kind of device with one number of threads. Another number of threads (torch's own default
is the machine's cores; `OMP_NUM_THREADS` sets it) changes the last bits, and is no reason to refuse to go on.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from .data import catalog
from .data.decode import open_decoder
from .data.decode.auto import choose_decoder
from .data.store import Store
from .engine.progress import Reporter
from .engine.runs import write_atomic
from .engine.setup import build_accelerator, resolve_engine
from .errors import ConfigError, DataError, RunError, unknown_name
from .evals.features import FEATURES, clip_batches, clip_indices, feature
from .feature_file import FORMATS, Table, read_about, write_features
from .pretrained import Pretrained, open_run, open_weights
from .resolve import leave_together, open_data, processes
from .spec import differences, parse_override, to_dict
from .tasks.base import ClipSpec

PIECE = 200
"""Videos that are computed between two writes to disk."""

SPLITS = ("train", "test", "all")
SETTINGS = (
    "data.frames",
    "data.size",
    "data.target_decoder",
    "eval.batch",
    "eval.stride",
    "engine.precision",
    "engine.decode_threads",
)
"""What --set changes here, beside the options of the backbone of a file of weights."""

Network = Callable[[torch.Tensor], torch.Tensor]
"""x_BCTHW -> features [B, D]"""


@dataclass(frozen=True)
class Wanted:
    """Which features.

    Args:
        split: "train", "test" or "all".
        clips: K, evenly spaced clips a video.
        feature: "pooled" or "map", see `evals.features.feature`.
        average: over the clips of a video.

    Raises ConfigError on a value that is none of these.
    """

    split: str = "all"
    clips: int = 10
    feature: str = "pooled"
    average: bool = True

    def __post_init__(self) -> None:
        for kind, value, legal in (("split", self.split, SPLITS), ("feature", self.feature, FEATURES)):
            if value not in legal:
                raise unknown_name(kind, value, legal)
        if self.clips < 1:
            raise ConfigError(f"--clips {self.clips} is too small; legal: 1 or more, usual 10.")


def embed_verb(
    run: Path | None,
    weights: Path | None,
    backbone: str | None,
    allow_pickle: bool,
    data: str,
    wanted: Wanted,
    out: Path,
    sets: list[str],
    as_json: bool,
) -> None:
    """What `vidssl embed` was told: a run, or weights and the backbone that they are of."""
    changes = dict(parse_override(text) for text in sets)
    for key in changes:
        if key not in SETTINGS and not (weights is not None and key.startswith("backbone.")):
            raise ConfigError(
                f"--set {key} changes nothing here. Legal: {', '.join(SETTINGS)}, and backbone.* with --weights."
            )
    if (run is None) == (weights is None) or (weights is None) != (backbone is None):
        raise ConfigError(
            "embed takes a run, `vidssl embed RUN --data DATA --out FILE`, or instead of it a file of weights and the "
            "network they are of, `--weights FILE --backbone NAME`. See `vidssl list runs` and `vidssl list backbones`."
        )
    if out.suffix not in FORMATS:
        raise unknown_name("kind of file for --out,", out.suffix or out.name, FORMATS)
    reporter = Reporter(quiet=not processes().is_main_process)
    if run is not None:
        pretrained = open_run(run, changes)
    else:
        assert weights is not None
        assert backbone is not None
        pretrained = open_weights(weights, backbone, allow_pickle, changes)
    # a run's precision and decoder were chosen for another machine and other data
    free = {key: changes.get(key, "auto") for key in ("engine.precision", "data.target_decoder")}
    made = embed(pretrained, open_data(data, reporter), wanted, out, reporter, *free.values())
    leave_together()
    if as_json and not reporter.quiet:
        print(json.dumps(made))


def embed(
    pretrained: Pretrained,
    store: Store,
    wanted: Wanted,
    out: Path,
    reporter: Reporter,
    precision: str = "auto",
    decoder: str = "auto",
) -> dict[str, Any]:
    """Computes features and writes them; ranks share the pieces.

    Args:
        out: ends with a key of `FORMATS`.
        precision, decoder: as in a run's spec.

    Returns:
        `out`, `videos`, `clips` a video, `width` D of a feature, `seconds` (0 where it was there).

    Raises:
        ConfigError: a clip that the backbone cannot take.
        DataError: no video in the split.
        RunError: features of another request are there; they stay. Features that are not finite.
    """
    backbone, spec = pretrained.backbone, pretrained.spec
    clip, stride = ClipSpec(spec.data.frames, spec.data.size), spec.eval.stride
    backbone.check_clip(clip.frames, clip.size, clip.size)
    rows = _rows(store, wanted.split)
    request = {
        "weights": pretrained.weights.sha256,
        "backbone": to_dict(spec)["backbone"],
        "data": {"videos": store.fingerprint(), "labels": store.labels_fingerprint()},
        "clip": {**asdict(clip), "stride": stride},
        "precision": precision,
        "decoder": decoder,
        "batch": spec.eval.batch,
        **asdict(wanted),
    }
    pieces = out.with_name(f"{out.name}.pieces")
    found = {"out": str(out), "videos": len(rows), "clips": wanted.clips}
    if out.exists():
        about = read_about(out)
        _require_same(out, about.get("request", {}), request)
        if processes().is_main_process:
            shutil.rmtree(pieces, ignore_errors=True)
        reporter.say(f"{out} holds these features already: nothing to do")
        return {**found, "width": about["width"], "seconds": 0.0}
    begun = time.perf_counter()
    engine = resolve_engine(replace(spec.engine, precision=precision), torch.cuda.is_available())
    accelerator = build_accelerator(engine)
    network = feature(backbone.to(accelerator.device), wanted.feature)
    with torch.inference_mode(), accelerator.autocast():
        nothing = torch.zeros(1, 3, clip.frames, clip.size, clip.size, device=accelerator.device)
        width = network(nothing).shape[1]
    threads = engine.decode_threads or None
    here = {"precision": engine.precision, "device": accelerator.device.type}
    state = _begin(pieces, request, here, store, accelerator, threads)
    opened = open_decoder(state["decoder"], store, accelerator.device, threads)
    batches = partial(clip_batches, opened, clip=clip, clips=wanted.clips, batch=spec.eval.batch, stride=stride)
    files = _compute(network, batches, rows, wanted, pieces, accelerator, reporter)
    opened.close()
    if accelerator.is_main_process:
        about = {
            "data": catalog.name_of(store),
            "run": pretrained.folder.name if pretrained.folder else None,
            "weights": Path(pretrained.weights.path).name,
            "width": width,
            "request": request,
            "computed_with": state,
        }
        indices_VKT = clip_indices(store.frames[rows], clip, wanted.clips, stride).astype(np.int32)
        table = Table(store, rows, None if wanted.average else indices_VKT, json.dumps(about))
        write_features(out, table, files, width)
        shutil.rmtree(pieces)
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - begun
    reporter.say(f"{len(rows)} videos x {wanted.clips} clips, {width} numbers each, {seconds:.0f} s -> {out}")
    return {**found, "width": width, "seconds": seconds}


def _compute(
    network: Network,
    batches: Callable[..., Iterator[tuple[np.ndarray, torch.Tensor]]],
    rows: np.ndarray,
    wanted: Wanted,
    pieces: Path,
    accelerator: Accelerator,
    reporter: Reporter,
) -> list[Path]:
    """Computes this process's share of the pieces that are not there. Returns all of them, once all are there.

    Args:
        batches: called with `rows` of a piece, gives positions in its flat order of clips, and x_BCTHW.
    """
    files = {first: pieces / f"{first:08d}.npy" for first in range(0, len(rows), PIECE)}
    clips = {first: len(rows[first : first + PIECE]) * wanted.clips for first in files}
    mine = list(files)[accelerator.process_index :: accelerator.num_processes]
    missing = [first for first in mine if not files[first].exists()]
    total = sum(clips[first] for first in mine)
    done = total - sum(clips[first] for first in missing)
    if done:
        reporter.say(f"going on: {len(mine) - len(missing)} of {len(mine)} pieces are there")
    with reporter.meter("embed", total, done) as meter, torch.inference_mode(), accelerator.autocast():
        for first in missing:
            parts = []
            for positions, x_BCTHW in batches(rows=rows[first : first + PIECE]):
                parts.append(network(x_BCTHW).float().cpu().numpy())
                meter.update(done + int(positions[-1]) + 1)
            done += clips[first]
            features_ND = np.concatenate(parts)
            _keep(files[first], features_ND.reshape(-1, wanted.clips, features_ND.shape[1]), wanted.average)
    accelerator.wait_for_everyone()
    return list(files.values())


def _rows(store: Store, split: str) -> np.ndarray:
    rows = np.arange(len(store)) if split == "all" else store.indices(split)
    if not len(rows):
        names, counts = np.unique(store.splits, return_counts=True)
        there = ", ".join(f"{name or 'none'} {count}" for name, count in zip(names, counts, strict=True))
        raise DataError(f"{store.path.name!r} has no video of split {split!r} (by split: {there}). Take --split all.")
    return rows


def _require_same(place: Path, kept: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    changed = differences(kept, request)
    if changed:
        raise RunError(
            f"{place} is of other features ({'; '.join(changed[:4])}). Choose another --out, or remove it. Nothing was "
            "changed."
        )


def _begin(
    pieces: Path,
    request: dict[str, Any],
    here: dict[str, str],
    store: Store,
    accelerator: Accelerator,
    threads: int | None,
) -> dict[str, str]:
    """Decoder, precision and device that all pieces are computed with; written before the first of them."""
    file = pieces / "request.json"
    state: list[dict[str, str]] = [{}]
    there = file.exists()
    accelerator.wait_for_everyone()  # before one of them writes it
    if there:
        kept = json.loads(file.read_text())
        _require_same(pieces, kept["request"], request)
        _require_same(pieces, {key: kept["computed_with"][key] for key in here}, here)
        return kept["computed_with"]
    if accelerator.is_main_process:
        name = request["decoder"]
        decoder = choose_decoder(store, accelerator.device, threads).name if name == "auto" else name
        state = [{**here, "decoder": decoder}]
        write_atomic(file, json.dumps({"request": request, "computed_with": state[0]}, indent=1))
    return broadcast_object_list(state)[0]


def _keep(file: Path, features_VKD: np.ndarray, average: bool) -> None:
    if not np.isfinite(features_VKD).all():
        raise RunError("the features are not finite: the weights have run away in their training, or are damaged.")
    buffer = io.BytesIO()
    np.save(buffer, features_VKD.mean(axis=1) if average else features_VKD)
    write_atomic(file, buffer.getvalue())
