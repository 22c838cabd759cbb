"""What a run is: frozen dataclasses, composed by name, written to and read from TOML.

Every field has a default; the defaults are the paper's protocol where the paper states one and the task's own recipe
where it does not (design sheet: pretext tasks 1.1 and 7). "auto" is resolved before step 0 and the result recorded.
`[task]` and `[backbone]` take, beside `name`, the fields of that task's `Args` and the options of that backbone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from .errors import ConfigError, unknown_name
from .legal import check_value
from .options import Named


@dataclass(frozen=True)
class DataSpec:
    """`source` is what the pretext task sees, `target` what the evaluations use."""

    source: str = "auto"
    subset: str = "all"
    target: str = "auto"
    frames: int = 16
    size: int = 112
    decoder: str = "auto"
    target_decoder: str = "auto"


@dataclass(frozen=True)
class InitSpec:
    """The weights to begin with: to pre-train, or to evaluate as they are.

    Args:
        weights: a file for `load_weights`; "" to draw them.
        allow_pickle: see `load_weights`.
    """

    weights: str = ""
    allow_pickle: bool = False


@dataclass(frozen=True)
class StageSpec:
    """One training: pre-training or fine-tuning.

    Args:
        epochs: passes over the samples.
        batch: samples of one optimizer step, over all devices and accumulation.
        optimizer: "sgd" (momentum 0.9) or "adamw".
        lr: learning rate at `batch`; stated, never rescaled behind the user's back.
        schedule: "cosine" (to zero, after the warm-up), "constant", or "steps" (a tenth from each milestone on).
        milestones: epochs after which the rate falls; for "steps" alone.
        warmup_epochs: linear rise from zero.
        clip_gradient: largest gradient norm, 0 for none.
    """

    epochs: int = 100
    batch: int = 8
    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: list[int] = field(default_factory=list)
    warmup_epochs: float = 0.0
    clip_gradient: float = 0.0


@dataclass(frozen=True)
class EvalSpec:
    """Which evaluations follow, and how they are made.

    Args:
        protocol: whose fine-tuning: "paper" (the benchmark's: resize and centre crop, mean softmax of ten clips), or
            that of a work of its lineage, see `vidssl.evals.protocols`. It sets the entries below that the user does
            not, and those of [finetune].
        clips: evenly spaced, of each test video; also of each video whose features are taken.
        stride: frames from one frame of a clip to the next, in fine-tuning and in every test.
        crop: of fine-tuning: "centre", "random" (112 of 128 pixels) or "resized" (a quarter to all of the area).
        flip: probability of mirroring in fine-tuning.
        average: "softmax" or "logits", of which the mean over the clips of a video is taken.
        seeds: fine-tunings, with the seeds seed, seed + 1, ...; their mean is the result.
        batch: clips at a time in tests.
        linear_weight_decay: of the linear probe.
        pretext_repeats: clips of each test video on which the pretext task is tested.
        ks: of retrieval; of the default ones those that the gallery is too small for are left out, and named.
        feature: of retrieval: "pooled", or "map" (maximum over 2x2 places of the map, flattened, as VCOP does).
        noise_table: "video" or "imagenet-c", see `vidssl.transforms.noise`.
        noise_kinds, noise_severities: of robustness.
        cka_modules: "blocks" (the backbone's taps), "leaves" or "all".
        cka_batch: clips of a minibatch, at least 4; of `cka_videos` test videos the centre clip is taken.
    """

    names: list[str] = field(default_factory=lambda: ["finetune", "linear", "retrieval"])
    protocol: str = "paper"
    clips: int = 10
    stride: int = 1
    crop: str = "centre"
    flip: float = 0.0
    average: str = "softmax"
    seeds: int = 1
    batch: int = 32
    linear_weight_decay: float = 1e-3
    pretext_repeats: int = 4
    ks: list[int] = field(default_factory=lambda: [1, 5, 10, 20, 50])
    feature: str = "pooled"
    noise_table: str = "video"
    noise_kinds: list[str] = field(default_factory=lambda: ["gaussian", "shot", "impulse", "speckle"])
    noise_severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    cka_modules: str = "blocks"
    cka_batch: int = 32
    cka_videos: int = 2048


@dataclass(frozen=True)
class WatchSpec:
    """How a pre-training is looked at while it goes on: k-NN, linear probe, rank and spread of the target's features.
    Where nothing is evaluated: rank and spread of its own videos'.

    Args:
        every: epochs between two looks, the first before the training, the last at its end; 0 for none. Where it is not
            set by hand, no more than a quarter of the epochs.
        videos: at most so many of each split, equal a class; one clip of each.
    """

    every: int = 20
    videos: int = 1000


@dataclass(frozen=True)
class EngineSpec:
    """How it is computed. Nothing here should change a result beyond rounding, but `batch_norm` on several devices.

    Args:
        micro_batch: largest batch of one device in one pass; 0 for no limit. Smaller ones are accumulated, and batch
            norm sees the clips of a pass.
        precision: "fp32", "bf16" or "auto" (bf16 on a GPU).
        compile: "on", "off" or "auto" (on a GPU).
        layout: "channels_last", "contiguous" or "auto" (both are timed).
        batch_norm: "synced" (statistics over all devices: as many as there are give the same result) or "local" (over
            each device's clips of a pass).
        checkpoint_every: steps between checkpoints; 0 means at the end of an epoch when the last is a minute old.
        log_every: steps between log lines; 0 means about fifty lines a stage.
        decode_threads: 0 for one a processor.
        prefetch: batches decoded ahead.
    """

    micro_batch: int = 0
    precision: str = "auto"
    compile: str = "auto"
    layout: str = "auto"
    batch_norm: str = "synced"
    checkpoint_every: int = 0
    log_every: int = 0
    decode_threads: int = 0
    prefetch: int = 2


@dataclass(frozen=True)
class RunSpec:
    """One run: pre-train one backbone with one task on one data set, then evaluate it."""

    task: Named = field(default_factory=lambda: Named("prp"))
    backbone: Named = field(default_factory=lambda: Named("shufflenet"))
    init: InitSpec = field(default_factory=InitSpec)
    data: DataSpec = field(default_factory=DataSpec)
    # the benchmark's lengths; optimizer, rate and batch it does not state: a task's `recipe` has its own paper's
    pretrain: StageSpec = field(default_factory=lambda: StageSpec(epochs=200))
    # VCOP's fine-tuning (SGD 1e-3, constant), the benchmark's lineage
    finetune: StageSpec = field(default_factory=lambda: StageSpec(epochs=100, lr=1e-3, schedule="constant"))
    eval: EvalSpec = field(default_factory=EvalSpec)
    watch: WatchSpec = field(default_factory=WatchSpec)
    engine: EngineSpec = field(default_factory=EngineSpec)
    preset: str = "auto"
    seed: int = 0


def to_dict(spec: Any) -> dict[str, Any]:
    """Plain nested dict; the options of a `Named` stand beside its name."""
    out: dict[str, Any] = {}
    for item in fields(spec):
        value = getattr(spec, item.name)
        if isinstance(value, Named):
            out[item.name] = {"name": value.name, **value.options}
        elif is_dataclass(value):
            out[item.name] = to_dict(value)
        else:
            out[item.name] = value
    return out


def from_dict(values: Mapping[str, Any]) -> RunSpec:
    """The inverse of `to_dict`. Raises ConfigError on an unknown key or an illegal value."""
    return _build(RunSpec, values, "")


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise unknown_name("key", prefix + key, [prefix + name for name in hints])
        if hints[key] is Named:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{prefix}{key} = {value!r} is no table; set {prefix}{key}.name=NAME instead.")
            options = dict(value)
            arguments[key] = Named(options.pop("name"), options)
        elif is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise ConfigError(
                    f"{prefix}{key} is a table of keys, not {value!r}; set {prefix}{key}.KEY=VALUE instead."
                )
            arguments[key] = _build(hints[key], value, f"{prefix}{key}.")
        else:
            arguments[key] = check_value(prefix + key, value, hints[key])
    return cls(**arguments)


def parse_override(text: str) -> tuple[str, Any]:
    """ "section.key=value" -> (key, value). The value is read as TOML; what is no TOML is a text."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} is not of the form section.key=value. Example: --set pretrain.epochs=20")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()
    return key.strip(), value


def override(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """A spec with "section.key" entries replaced."""
    values = to_dict(spec)
    for key, value in changes.items():
        place = values
        *path, last = key.split(".")
        for part in path:
            if not isinstance(place.get(part), dict):
                raise unknown_name("key", key, _all_keys(values))
            place = place[part]
        if last not in place and path[:1] not in (["task"], ["backbone"]):
            raise unknown_name("key", key, _all_keys(values))
        place[last] = value
    return from_dict(values)


def _all_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        keys += _all_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """ "key: here -> there" for every value that differs."""
    lines = []
    for key in sorted(set(one) | set(other)):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} -> {right!r}")
    return lines
