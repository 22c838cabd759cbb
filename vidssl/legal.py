"""Which values a key of a spec, of a task or of a backbone may have."""

from __future__ import annotations

import math
from typing import Any, get_args, get_origin

from .errors import ConfigError, unknown_name

_CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "constant", "steps"),
    "protocol": ("paper", "vcop", "prp", "rspnet", "ctp"),
    "crop": ("centre", "random", "resized"),
    "average": ("softmax", "logits"),
    "feature": ("pooled", "map"),
    "noise_table": ("video", "imagenet-c"),
    "cka_modules": ("blocks", "leaves", "all"),
    "precision": ("auto", "fp32", "bf16"),
    "compile": ("auto", "on", "off"),
    "layout": ("auto", "channels_last", "contiguous"),
    "batch_norm": ("synced", "local"),
    "preset": ("auto", "paper", "small"),
}
_ITEMS: dict[str, tuple[Any, ...]] = {
    "noise_kinds": ("gaussian", "shot", "impulse", "speckle"),
    "noise_severities": (1, 2, 3, 4, 5),
}
_NOT_EMPTY = ("noise_kinds", "noise_severities", "ks")
_AT_LEAST = {
    "epochs": 0,
    "batch": 1,
    "clips": 1,
    "frames": 1,
    "size": 16,
    "pretext_repeats": 1,
    "stride": 1,
    "seeds": 1,
    "seed": 0,
    "weight_decay": 0.0,
    "linear_weight_decay": 0.0,
    "cka_batch": 4,
    "cka_videos": 4,
    "every": 0,
    "micro_batch": 0,
    "checkpoint_every": 0,
    "log_every": 0,
    "decode_threads": 0,
    "videos": 2,
    "prefetch": 1,
    "lr": 0.0,
    "warmup_epochs": 0.0,
    "clip_gradient": 0.0,  # a norm below zero would turn the gradient round
}


def check_value(key: str, value: Any, kind: Any) -> Any:
    """The value as the field's type, or ConfigError saying what is legal."""
    name = key.rpartition(".")[2]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    # before any bound is looked at: a comparison with nan is false
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, float) and not math.isfinite(each):
            raise ConfigError(f"{key} = {value} is not finite; legal: numbers, neither inf nor nan.")
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if kind in plain and (not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))):
        raise ConfigError(f"{key} = {value!r} is not {plain[kind]}. Example: --set {key}={_example(kind)}")
    if get_origin(kind) is tuple:
        count = len(get_args(kind))
        numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
        if not numbers or len(value) != count:
            raise ConfigError(
                f"{key} = {value!r} is not a list of {count} numbers. Example: --set {key}={[0.1] * count}"
            )
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        if not isinstance(value, list) or not all(type(each) is item for each in value):
            raise ConfigError(f"{key} = {value!r} is not a list of {plain[item].partition(' ')[2]}s.")
        legal = _ITEMS.get(name, ())
        for each in value:
            if legal and each not in legal:
                raise unknown_name(f"value in {key}:", str(each), [str(one) for one in legal])
        if name in _NOT_EMPTY and not value:
            raise ConfigError(f"{key} is an empty list; it needs one value at least.")
    if key.startswith(("task.", "backbone.")):
        return value  # an option that is called like a field of ours; what is legal its own class says
    if name in _CHOICES and value not in _CHOICES[name]:
        raise unknown_name(f"value of {key}:", value, _CHOICES[name])
    if name in _AT_LEAST and value < _AT_LEAST[name]:
        raise ConfigError(f"{key} = {value} is too small; legal: {_AT_LEAST[name]} or more.")
    return value


def _example(kind: type) -> str:
    return {int: "8", float: "0.01", str: "name", bool: "true"}[kind]
