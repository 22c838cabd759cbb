"""Weights in: from a checkpoint of this toolkit or of a public repository into a backbone, all of them or none.

Peers load such files with `strict=False`, and where a prefix differs they silently train from scratch. Here a backbone
that does not get every tensor, or a file with more layers than the backbone, is an error that names both sides.

Whose checkpoint a file is, and so how its pixels were scaled, is read off its form. The forms, from the code that
writes them (`checkpoints.py` unwraps the containers):

    torchvision   a bare state dict (pytorch/vision:torchvision/models/video)
    vcop          bare; pretext under `base_network.` (xudejing/video-clip-order-prediction:train_vcop.py,
                  ft_classify.py)
    prp           the same under DataParallel's `module.` (yuanyao366/PRP:train_predict.py, ft_classfy.py)
    rspnet        {arch, model}; pretext under `encoder_q.encoder.` beside `encoder_k.` and a queue, fine-tuned under
                  `encoder.` beside `fc` (PeihaoChen/RSPNet:pretrain.py, finetune.py, moco/split_wrapper.py)
    efficient3d   {arch, state_dict}, `module.` (okankop/Efficient-3DCNNs:main.py)
    videomae      {model} or DeepSpeed's {module}; pretext under `encoder.` beside a decoder (MCG-NJU/VideoMAE:utils.py)
    mmaction      {meta, state_dict}, `backbone.` beside `cls_head.`
                  (SwinTransformer/Video-Swin-Transformer:mmcv_custom/runner/checkpoint.py)
    vidssl        `model.safetensors` of a run, or a file of its `checkpoints`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import RunError, unknown_name
from ..tasks.base import Task
from . import BACKBONES
from .base import INPUTS, Backbone
from .checkpoints import Checkpoint, read_checkpoint

PREFIXES = ("", "backbone.", "base_network.", "encoder_q.encoder.", "encoder.")
"""What a file may put before the names of the backbone's tensors, after `module.`."""

CLASSIFIERS = {
    "": ("linear", "fc", "head", "classifier", "classifier.1"),
    "backbone.": ("cls_head.fc_cls", "classifier"),
    "encoder.": ("fc",),
}
"""Prefix of the backbone -> where a fine-tuned classifier may stand. Under the other prefixes a file is of a pretext
task; RSPNet's `encoder.linear` and `encoder.fc` have one output that nothing trains."""

ORIGINS = {"torchvision": "torchvision", "Efficient-3DCNNs": "efficient3d", "video-clip-order-prediction": "vcop"}
"""Part of a backbone's `origin` -> format of a file whose form says nothing more."""

SHOWN = 4
"""Names of each kind in a message."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Loaded:
    """What `load_weights` did.

    Attributes:
        format: whose checkpoint it is, see the table above; "state dict" where nothing tells.
        matched: how many of the backbone's tensors came from the file.
        ignored: reason -> names in the file that went nowhere.
        input: the scaling of pixels that was set.
        sha256: of the file.
        classifier: whether the file's classifier went into the task's.
    """

    path: str
    format: str
    matched: int
    ignored: dict[str, tuple[str, ...]]
    input: str
    sha256: str
    classifier: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For a summary: of the ignored names only how many."""
        return {**asdict(self), "ignored": {reason: len(names) for reason, names in self.ignored.items()}}

    def line(self) -> str:
        """For the terminal."""
        ignored = ", ".join(f"{reason} {len(names)}" for reason, names in self.ignored.items()) or "nothing"
        form = f"format {self.format}, input {self.input}"
        return f"weights: {self.matched} tensors of {self.path}, {form}; left out: {ignored}"


def load_weights(
    model: Backbone | Task, path: str | Path, allow_pickle: bool = False, input: str | None = None
) -> Loaded:
    """Puts the weights of a file into a backbone, and sets the scaling of pixels that they were trained with.

    `num_batches_tracked` may lack on either side; `relative_position_index` is not taken: it follows from the window.

    Args:
        model: a backbone; or a task, whose backbone is loaded, and whose `classifier` (`nn.Linear`) too where the file
            has a fine-tuned one of its shape.
        path: .safetensors, or what `torch.save` wrote (.pth, .pt, .tar).
        allow_pickle: unpickle what `weights_only=True` refuses. That runs whatever the file's maker put into it.
        input: a name of `INPUTS` instead of the format's own: what the run's spec says for vidssl; "imagenet" for
            rspnet, videomae and mmaction; "unit" for vcop and prp; otherwise the backbone's `public_input`.

    Raises:
        RunError: no such file, no checkpoint, damaged, not to be read without unpickling, or of another network.
            Nothing has changed in the model then.
        ConfigError: an unknown `input`.
    """
    if input is not None and input not in INPUTS:
        raise unknown_name("input scaling", input, INPUTS)
    backbone = model.backbone if isinstance(model, Task) else model
    checkpoint = read_checkpoint(Path(path), allow_pickle)
    tensors, own = checkpoint.tensors, backbone.state_dict()
    match = match_names(type(backbone), shapes_of(own), shapes_of(tensors), public=checkpoint.spec is None)
    if not match.complete:
        raise RunError(_refusal(checkpoint, type(backbone), shapes_of(own), match))
    format, trained_with = _recognise(checkpoint, match.prefix, type(backbone))
    ignored = dict(match.ignored)
    head = {name: tensors[key] for name, key in match.classifier.items()}
    classifier = getattr(model, "classifier", None) if isinstance(model, Task) else None
    fits = isinstance(classifier, nn.Linear) and shapes_of(head) == shapes_of(classifier.state_dict())
    if head and not fits:
        here = f", here {_size(tuple(classifier.weight.shape))}" if isinstance(classifier, nn.Linear) else ""
        ignored[f"classifier ({_size(tuple(head['weight'].shape))}{here})"] = tuple(match.classifier.values())
    backbone.load_state_dict({**own, **{name: tensors[key] for name, key in match.found.items()}})
    if fits:
        classifier.load_state_dict(head)  # type: ignore[union-attr]
    backbone.set_input(input or trained_with)
    return Loaded(str(checkpoint.path), format, len(match.found), ignored, backbone.input, checkpoint.sha256, fits)


@dataclass(frozen=True)
class Match:
    """How the names of a file meet those of a backbone. Keys are the file's names, names the backbone's.

    Attributes:
        prefix: one of `PREFIXES`.
        found: name -> key.
        missing: names without a key.
        other_shape: name -> key of another shape.
        surplus: keys that belong to the network in the file and have no place here: of a part that is here too (more
            layers, shortcuts with weights), or of the network itself (positions that are learnt).
        classifier: "weight" and "bias" -> key, empty where there is none that was fine-tuned.
        ignored: reason -> all other keys.
    """

    prefix: str
    found: dict[str, str]
    missing: list[str]
    other_shape: dict[str, str]
    surplus: list[str]
    classifier: dict[str, str]
    ignored: dict[str, tuple[str, ...]]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.other_shape or self.surplus)


def match_names(cls: type[Backbone], own: Shapes, theirs: Shapes, public: bool = True) -> Match:
    """Finds a key for every tensor of a backbone.

    Args:
        own: name -> shape of the backbone's state dict.
        theirs: key -> shape of the file's.
        public: whether the file has public names, that `rename_public` translates.
    """
    bare = {key.removeprefix("module."): key for key in theirs}

    def inside(prefix: str) -> dict[str, str]:
        names = {name.removeprefix(prefix): key for name, key in bare.items() if name.startswith(prefix)}
        return {cls.rename_public(name): key for name, key in names.items()} if public else names

    prefix, keys = max(((p, inside(p)) for p in PREFIXES), key=lambda item: len(item[1].keys() & own.keys()))
    wanted = [name for name in own if not _is_computed(name)]
    found = {name: keys[name] for name in wanted if name in keys and theirs[keys[name]] == own[name]}
    missing = [name for name in wanted if name not in keys and not _is_counter(name)]
    other_shape = {name: keys[name] for name in wanted if name in keys and name not in found}
    parts = {name.partition(".")[0] for name in own}
    surplus = [
        key
        for name, key in keys.items()
        if name not in own
        and (name.partition(".")[0] in parts or "." not in name)
        and not (_is_counter(name) or _is_computed(name))
    ]
    places = (place for place in CLASSIFIERS.get(prefix, ()) if f"{place}.weight" in bare and f"{place}.bias" in bare)
    place = next(places, None)
    classifier = {} if place is None else {which: bare[f"{place}.{which}"] for which in ("weight", "bias")}
    used = {*found.values(), *other_shape.values(), *surplus, *classifier.values()}
    ignored: dict[str, tuple[str, ...]] = {}
    for name, key in bare.items():
        if key not in used:
            ignored[_reason(name)] = (*ignored.get(_reason(name), ()), key)
    return Match(prefix, found, missing, other_shape, surplus, classifier, ignored)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # of batch norm, from PyTorch 0.4.1 on; nothing depends on it


def _is_computed(name: str) -> bool:
    return name.endswith("relative_position_index")


def _reason(name: str) -> str:
    if _is_counter(name):
        return "batch counters"
    if _is_computed(name):
        return "position indices"
    if name.startswith("encoder_k."):
        return "key encoder"
    return "queue" if name.partition(".")[0] in ("queue", "queue_ptr") else "heads and decoders"


def _recognise(checkpoint: Checkpoint, prefix: str, cls: type[Backbone]) -> tuple[str, str]:
    """The file's format, and the scaling of pixels that it was trained with."""
    outer, names = checkpoint.outer, checkpoint.tensors
    parallel = any(name.startswith("module.") for name in names)
    if checkpoint.spec is not None:
        return "vidssl", checkpoint.spec["backbone"].get("input", "unit")
    if prefix == "base_network.":
        return "prp" if parallel else "vcop", "unit"
    if prefix == "encoder_q.encoder." or {"arch", "model"} <= outer:
        return "rspnet", "imagenet"
    if any(name.endswith("attn.q_bias") for name in names):
        return "videomae", "imagenet"
    if prefix == "encoder." and "fc.weight" in names:
        return "rspnet", "imagenet"
    if prefix == "backbone." and ("meta" in outer or any(name.startswith("cls_head.") for name in names)):
        return "mmaction", "imagenet"
    formats = [format for part, format in ORIGINS.items() if part in cls.origin and prefix == ""]
    if formats == ["vcop"] and parallel:
        return "prp", "unit"
    return formats[0] if formats else "state dict", cls.public_input


def _refusal(checkpoint: Checkpoint, cls: type[Backbone], own: Shapes, match: Match) -> str:
    """What does not fit, in numbers and names, and what to try."""
    theirs = shapes_of(checkpoint.tensors)
    shapes = [f"{name} {_size(own[name])} here, {_size(theirs[key])} there" for name, key in match.other_shape.items()]
    total = len(match.found) + len(match.missing) + len(match.other_shape)
    text = f"{checkpoint.path} holds no weights of this network ({cls.__name__}), and nothing was loaded."
    if match.missing:
        text += f" Of its {total} tensors {len(match.missing)} are not in the file ({_few(match.missing)})."
    if shapes:
        text += f" Of its {total} tensors {len(shapes)} have another shape ({_few(shapes, '; ')})."
    unused = [*match.surplus, *match.ignored.get("heads and decoders", ())]
    if match.missing and unused:
        text += f" Of the file's tensors {len(unused)} have no place here ({_few(unused)})."
    elif match.surplus:
        text += f" Of the file's tensors {len(match.surplus)} are of layers not here ({_few(match.surplus)})."
    if checkpoint.spec is not None:
        options = dict(checkpoint.spec["backbone"])
        return f"{text} They are of a run with backbone {_with(options.pop('name'), options)}."
    fitting = _fitting(theirs)
    if fitting:
        return f"{text} They fit backbone {' or '.join(fitting)}."
    return f"{text} No backbone takes them as it is or in a variant that `vidssl list backbones` shows."


def _fitting(theirs: Shapes) -> list[str]:
    """Backbones, as they are and in their variants, into which a file goes whole."""
    return [label for label, cls, own in _candidates() if match_names(cls, own, theirs).complete]


@cache
def _candidates() -> list[tuple[str, type[Backbone], Shapes]]:
    """Every backbone and variant, as text, with the shapes of its tensors; none is allocated."""
    found: list[tuple[str, type[Backbone], Shapes]] = []
    for name in BACKBONES.names():
        try:
            cls = BACKBONES.get(name)
        except ImportError:  # of another package that lacks something: no reason to keep the message back
            continue
        for options in ({}, *cls.variants):
            with torch.device("meta"):
                found.append((_with(name, options), cls, shapes_of(cls(**options).state_dict())))
    return found


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _with(name: str, options: Mapping[str, Any]) -> str:
    return f"{name} ({', '.join(f'{key}={value}' for key, value in options.items())})" if options else name


def _few(names: Sequence[str], separator: str = ", ") -> str:
    more = len(names) - SHOWN
    return separator.join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
