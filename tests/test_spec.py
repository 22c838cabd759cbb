"""The spec: in and out of TOML, overrides, and mistakes that say what is legal."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass

import pytest
import tomli_w

from vidssl.errors import ConfigError
from vidssl.options import Named, complete_options, dataclass_options
from vidssl.spec import RunSpec, differences, from_dict, override, parse_override, to_dict


def test_round_trip_through_toml():
    spec = override(RunSpec(), {"task.complexity": 2, "pretrain.lr": 0.5, "eval.names": ["linear"], "data.size": 64})
    assert from_dict(tomllib.loads(tomli_w.dumps(to_dict(spec)))) == spec


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("pretrain.lr=0.1", "pretrain.lr", 0.1),
        ("a.b=3", "a.b", 3),
        ("a.b=x.y", "a.b", "x.y"),
        ('a.b="3"', "a.b", "3"),
        ("a=true", "a", True),
    ],
)
def test_override_values_are_read_as_toml(text, key, value):
    assert parse_override(text) == (key, value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pretrain.epoch": 3}, r"Did you mean 'pretrain.epochs'"),
        ({"engin.compile": "on"}, "unknown key 'engin.compile'"),
        ({"pretrain.epochs": "many"}, "whole number"),
        ({"pretrain.epochs": True}, "whole number"),
        ({"pretrain.batch": 0}, "1 or more"),
        ({"pretrain.optimizer": "adam"}, "adamw"),
        ({"pretrain": 3}, "table"),
        ({"seed.x": 3}, "unknown key"),
        ({"seed": -1}, "0 or more"),
        ({"backbone": 3}, "no table"),
        ({"eval.linear_weight_decay": -1.0}, "0.0 or more"),
        ({"eval.noise_kinds": ["fog"]}, "gaussian"),
        ({"eval.noise_severities": [1, 6]}, "'6'"),
        ({"eval.ks": []}, "empty"),
        ({"eval.ks": [1, "5"]}, "whole numbers"),
        ({"pretrain.clip_gradient": -1.0}, r"pretrain\.clip_gradient = -1\.0 is too small; legal: 0\.0 or more"),
        ({"finetune.warmup_epochs": -2}, "0.0 or more"),
        ({"pretrain.lr": math.nan}, r"pretrain\.lr = nan is not finite"),
        ({"pretrain.clip_gradient": math.inf}, "not finite"),
    ],
)
def test_mistakes(changes, says):
    with pytest.raises(ConfigError, match=says):
        override(RunSpec(), changes)


def test_set_without_equals_sign():
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_override("pretrain.lr")


@dataclass(frozen=True)
class Args:
    complexity: int = 3
    width: float = 1.0
    range: tuple[float, float] = (0.5, 1.0)


def test_options_are_completed_and_checked():
    done = complete_options(Named("x", {"complexity": 1}), dataclass_options(Args), "task")
    assert done.options == {"complexity": 1, "width": 1.0, "range": (0.5, 1.0)}
    with pytest.raises(ConfigError, match=r"Did you mean 'task.width'"):
        complete_options(Named("x", {"widht": 1}), dataclass_options(Args), "task")
    with pytest.raises(ConfigError, match="whole number"):
        complete_options(Named("x", {"complexity": "hard"}), dataclass_options(Args), "task")
    for kind in ("task", "backbone"):
        for options in ({"width": math.nan}, {"range": [0.5, math.inf]}):
            with pytest.raises(ConfigError, match=rf"{kind}\.\w+ = .* is not finite"):
                complete_options(Named("x", options), dataclass_options(Args), kind)


def test_differences_name_the_key_and_both_values():
    one, other = to_dict(RunSpec()), to_dict(override(RunSpec(), {"pretrain.lr": 0.5}))
    assert differences(one, other) == ["pretrain.lr: 0.01 -> 0.5"]
