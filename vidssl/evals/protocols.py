"""Whose fine-tuning: entries of the spec by the name of the work, for `eval.protocol`.

"paper" is the benchmark's (arXiv 2306.06010, supplementary 2.3): the defaults of the spec. The others are the methods
that it compares, each as its own code has it:

vcop    Xu et al., CVPR 2019, xudejing/video-clip-order-prediction:ft_classify.py
prp     Yao et al., CVPR 2020, yuanyao366/PRP:ft_classfy.py, config.py
rspnet  Chen et al., AAAI 2021, PeihaoChen/RSPNet:config/finetune
ctp     Wang et al., "Unsupervised Visual Representation Learning by Tracking Patches in Video", CVPR 2021,
        microsoft/CtP:configs/recognizers/_base_/runtime_ucf101.py

What differs: vcop and prp hold videos out of the training list and keep the epoch with the best loss or accuracy on
them; here every training video trains and the last epoch counts, as in the benchmark. ctp also turns colours with small
probabilities and chooses among three picture sizes; neither is done here. rspnet and ctp scale pixels by ImageNet's
statistics: that is the weights' `backbone.input`, which follows them. All are the recipes for UCF101 and for 16 frames
of 112 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import unknown_name
from ..spec import RunSpec

_VCOP: dict[str, Any] = {
    "finetune.epochs": 150,
    "finetune.batch": 8,
    "finetune.optimizer": "sgd",
    "finetune.lr": 1e-3,
    "finetune.weight_decay": 5e-4,
    "finetune.schedule": "constant",
    "finetune.warmup_epochs": 0.0,
    "eval.crop": "random",
    "eval.average": "logits",
}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "paper": {},
    "vcop": _VCOP,
    "prp": {**_VCOP, "finetune.epochs": 160, "finetune.schedule": "steps", "finetune.milestones": [100]},
    "rspnet": {
        **_VCOP,
        "finetune.epochs": 30,
        "finetune.lr": 0.1,
        "finetune.weight_decay": 1e-4,
        "finetune.schedule": "cosine",
        "eval.crop": "resized",
        "eval.flip": 0.5,
    },
    "ctp": {
        **_VCOP,
        "finetune.batch": 32,
        "finetune.lr": 0.01,
        "finetune.schedule": "steps",
        "finetune.milestones": [60, 120],
        "finetune.clip_gradient": 40.0,
        "eval.stride": 2,
        "eval.flip": 0.35,
    },
}


def with_protocol(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, and what the protocol among it says of the rest: of all that any protocol sets, so that
    nothing of another one is left. Raises ConfigError on an unknown one."""
    name = changes.get("eval.protocol")
    if name is None:
        return dict(changes)
    if name not in tuple(PROTOCOLS):
        raise unknown_name("value of eval.protocol:", str(name), PROTOCOLS)
    defaults = RunSpec()
    everything = {key for entries in PROTOCOLS.values() for key in entries}
    papers = {key: getattr(getattr(defaults, key.partition(".")[0]), key.partition(".")[2]) for key in everything}
    return {**papers, **PROTOCOLS[name], **changes}
