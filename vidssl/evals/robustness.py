"""Robustness to noise: the fine-tuned network tested on clean and on noisy clips of the same test videos.

The score is the benchmark's (arXiv 2306.06010, table 5): relative_drop = (clean - noisy) / clean, lower is better; over
several noises their accuracies are averaged first and divided once. Its source, Schiappa et al., A Large-scale
Robustness Analysis of Video Action Recognition Models, CVPR 2023, reports one minus it.

What differs. The benchmark took another subset of videos for the clean accuracy than for the noisy ones; here both are
of the same clips, each of which is decoded once. Noise is made on the device while testing and is never stored, so no
second compression softens it. It is added to the whole decoded picture, before the crop and the resize, as in Schiappa
et al., and is a function of video, frame, kind, severity, table and the run's seed.

A test may take hours. What was predicted is kept in pieces of some videos, RUN/robustness/NUMBER.npz: `identity` (of
the network, the videos and the settings) and `predicted` int64 [N conditions, V videos of this piece]. A piece that is
there is not computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from ..data.decode.base import ClipRequest
from ..engine.context import Context
from ..engine.runs import write_atomic
from ..errors import ConfigError, RunError
from ..spec import EvalSpec, RunSpec
from ..tasks.base import ClipSpec
from ..transforms.geometry import centre_clip, crop_side
from ..transforms.noise import add_noise, frame_keys
from .classify import Classify
from .features import clip_indices
from .finetune import clip_scores, video_probabilities
from .statistics import wilson_interval
from .target import Target

Condition = tuple[str, int]
"""Kind and severity of a noise."""

CLEAN: Condition = ("clean", 0)

PIECE_PASSES = 8192
"""Clips times conditions of a piece, at most: some seconds on a GPU, an hour of a large network on two cores."""


def check_noises(spec: EvalSpec) -> None:
    """Raises ConfigError on noises that there are not, that come twice, and on none: before hours of work."""
    nothing = torch.zeros(0, 1, 1, 1, 3, dtype=torch.uint8)
    for key in ("noise_kinds", "noise_severities"):
        values = getattr(spec, key)
        if not values or len(set(values)) < len(values):
            raise ConfigError(
                f"eval.{key} = {values}: robustness needs at least one, and each once. Leave the key out for all, or "
                "robustness out of the evaluations."
            )
    for kind, severity in product(spec.noise_kinds, spec.noise_severities):
        add_noise(nothing, kind, severity, spec.noise_table, seed=0)


def robustness(task: Classify, target: Target, clip: ClipSpec, spec: RunSpec, context: Context) -> dict[str, Any]:
    """Tests a fine-tuned network on its target's test videos, clean and under each noise of the spec.

    Clips and their averaging are those of the fine-tuning test (clips, stride and average of `spec.eval`). Ranks share
    the videos. Goes on where it was stopped, with the very same result.

    Args:
        task: the fine-tuned network; its state is not changed, but it is left in eval mode.

    Returns:
        table, seed, videos, clips, classes, chance;
        resolution ([height, width] in pixels of the picture that noise is added to), network_size and their note;
        clean: {top1, interval}; noises: kind -> severity (a string) -> {top1, interval, relative_drop};
        relative_drop: severity -> over the kinds, and "mean" over all noises; relative_drop_per_noise: kind -> over
        the severities. A relative_drop is None where the clean accuracy is 0. Intervals are 95 %, Wilson's.

    Raises ConfigError on an unknown noise, RunError where the folder holds pieces of another test.
    """
    check_noises(spec.eval)
    task.to(context.device).eval()
    conditions = [CLEAN, *product(spec.eval.noise_kinds, sorted(spec.eval.noise_severities))]
    predicted_NV = _predict_all(task, target, clip, spec, conditions, context)
    labels = target.labels[target.test]
    width, height = target.decoder.store.meta.picture
    return {
        "table": spec.eval.noise_table,
        "seed": spec.seed,
        "resolution": [height, width],
        "network_size": clip.size,
        "resolution_note": (
            f"noise is added to the decoded picture, {width}x{height}, before the centre crop of "
            f"{crop_side(height, width)} pixels becomes {clip.size}. A resize averages noise away, so the same "
            "severity is harsher on a small picture: compare at one resolution. `vidssl prep --short-side 240` gives "
            "the 320x240 of the video benchmark."
        ),
        "videos": len(labels),
        "clips": spec.eval.clips,
        "classes": target.num_classes,
        "chance": target.chance,
        **scores(predicted_NV == labels, conditions),
    }


def scores(correct_NV: np.ndarray, conditions: list[Condition]) -> dict[str, Any]:
    """Accuracies and relative drops of N conditions, the first of which is `CLEAN`; see `robustness`.

    Args:
        correct_NV: bool; whether each video was told right under each condition.
        conditions: each kind at each severity.
    """
    top1 = dict(zip(conditions, correct_NV.mean(axis=1).tolist(), strict=True))
    clean = top1[CLEAN]

    def accuracy(condition: Condition) -> dict[str, Any]:
        return {"top1": top1[condition], "interval": list(wilson_interval(top1[condition], correct_NV.shape[1]))}

    def drop(noisy: list[Condition]) -> float | None:
        return relative_drop(clean, float(np.mean([top1[condition] for condition in noisy])))

    kinds = list(dict.fromkeys(kind for kind, _ in conditions[1:]))
    severities = list(dict.fromkeys(severity for _, severity in conditions[1:]))
    noises: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for kind, severity in conditions[1:]:
        noises[kind][str(severity)] = {**accuracy((kind, severity)), "relative_drop": drop([(kind, severity)])}
    return {
        "clean": accuracy(CLEAN),
        "noises": noises,
        "relative_drop": {
            **{str(severity): drop([(kind, severity) for kind in kinds]) for severity in severities},
            "mean": drop(conditions[1:]),
        },
        "relative_drop_per_noise": {kind: drop([(kind, severity) for severity in severities]) for kind in kinds},
    }


def relative_drop(clean: float, noisy: float) -> float | None:
    """(clean - noisy) / clean: 0 where noise costs nothing, below 0 where it helps; None where clean is 0."""
    return (clean - noisy) / clean if clean else None


def _predict_all(
    task: Classify, target: Target, clip: ClipSpec, spec: RunSpec, conditions: list[Condition], context: Context
) -> np.ndarray:
    """Class of each test video under each condition, int64 [N, V], the same on every rank."""
    world, rank = context.accelerator.num_processes, context.accelerator.process_index
    folder, identity = Path(context.run.path) / "robustness", _identity(task, target, clip, spec, context)
    passes = spec.eval.clips * len(conditions)
    step = max(1, PIECE_PASSES // passes)
    firsts = range(0, len(target.test), step)
    files = [folder / f"{number:06d}.npz" for number in range(len(firsts))]
    pieces = [_read_piece(file, identity) for file in files]
    shares = [np.arange(first + rank, min(first + step, len(target.test)), world) for first in firsts]
    own = sum(map(len, shares)) * passes
    done = sum(len(share) for share, piece in zip(shares, pieces, strict=True) if piece is not None) * passes
    if done:
        there = sum(piece is not None for piece in pieces)
        context.reporter.say(f"robustness: going on with {there} of {len(pieces)} pieces done")
    with (
        context.reporter.meter("robustness", own, done) as meter,
        torch.inference_mode(),
        context.accelerator.autocast(),
    ):
        for number, share in enumerate(shares):
            if pieces[number] is not None:
                continue
            predicted = _predict(
                task, target, target.test[share], clip, spec, conditions,
                lambda fresh, note: meter.update(meter.done + fresh, note),
            )  # fmt: skip
            parts = gather_object([(share - firsts[number], predicted)])
            piece = np.empty((len(conditions), sum(len(places) for places, _ in parts)), np.int64)
            for places, part in parts:
                piece[:, places] = part
            pieces[number] = piece
            if context.run.main:
                _write_piece(files[number], identity, piece)
    return np.concatenate([piece for piece in pieces if piece is not None], axis=1)


def _predict(
    task: Classify,
    target: Target,
    rows: np.ndarray,
    clip: ClipSpec,
    spec: RunSpec,
    conditions: list[Condition],
    advance: Callable[[int, str], None],
) -> np.ndarray:
    """Class of some videos under each condition, int64 [N, V]. A clip is decoded once; all its noises are made of it.

    Args:
        rows: int64 [V], of the store.
        advance: told of clips that went through the network, and under which condition.
    """
    store, clips = target.decoder.store, spec.eval.clips
    indices = clip_indices(store.frames[rows], clip, clips, spec.eval.stride).reshape(len(rows) * clips, clip.frames)
    videos, keys = np.repeat(rows, clips), store.keys.view(np.int64)
    network = clip_scores(task, spec.eval.average)
    found = np.zeros((len(conditions), len(indices), task.args.num_classes), np.float32)
    for first in range(0, len(indices), spec.eval.batch):
        now = slice(first, first + spec.eval.batch)
        requests = [ClipRequest(int(video), frames) for video, frames in zip(videos[now], indices[now], strict=True)]
        frames_BTHWC = target.decoder.decode(requests)
        keys_BT = frame_keys(torch.from_numpy(keys[videos[now]]), torch.from_numpy(indices[now]), spec.seed)
        keys_BT = keys_BT.to(frames_BTHWC.device)
        for place, (kind, severity) in enumerate(conditions):
            seen_BTHWC = frames_BTHWC
            if (kind, severity) != CLEAN:
                seen_BTHWC = add_noise(frames_BTHWC, kind, severity, spec.eval.noise_table, seed=keys_BT)
            found[place, now] = network(centre_clip(seen_BTHWC, clip.size)).float().cpu().numpy()
            advance(len(requests), f"{kind} {severity or ''}".strip())
    if not np.isfinite(found).all():
        raise RunError("the fine-tuned network's answers are not finite: its weights have run away in training.")
    by_video = found.reshape(len(conditions), len(rows), clips, task.args.num_classes)
    return np.stack([video_probabilities(each_VKC, spec.eval.average).argmax(axis=1) for each_VKC in by_video])


def _identity(task: Classify, target: Target, clip: ClipSpec, spec: RunSpec, context: Context) -> str:
    """A hash of all that a prediction hangs on."""
    settings = {
        "request": context.request,
        "store": target.decoder.store.fingerprint(),
        "clip": [clip.frames, clip.size, spec.eval.clips, spec.eval.stride, spec.eval.average],
        "noise": [spec.eval.noise_table, spec.eval.noise_kinds, spec.eval.noise_severities, spec.seed],
    }
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(target.test.astype(np.int64).tobytes())
    for name, tensor in sorted(task.state_dict().items()):
        digest.update(name.encode())
        # a layout that lets convolutions run faster is no other network
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_piece(path: Path, identity: str, predicted_NV: np.ndarray) -> None:
    # kept when all is done: until the stage's own file is written, a stop would lose everything
    buffer = io.BytesIO()
    np.savez_compressed(buffer, identity=np.array(identity), predicted=predicted_NV)
    write_atomic(path, buffer.getvalue())


def _read_piece(path: Path, identity: str) -> np.ndarray | None:
    """int64 [N, V]; None where there is none."""
    if not path.exists():
        return None
    advice = f"Move {path.parent.name}/ away there to test anew, or choose another folder with --out."
    try:
        with np.load(path) as file:
            stored, predicted = str(file["identity"]), file["predicted"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}, a piece of a robustness test, cannot be read ({error}). {advice}") from error
    if stored != identity:
        raise RunError(f"{path} belongs to a test of another network, data set or other noises. {advice}")
    return predicted
