"""Weights in: every public format whole, into the right tensors; anything less is refused and nothing has changed."""

from __future__ import annotations

import argparse
import json
import re
from itertools import product
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import save_file
from torchvision.models import video

from vidssl import create_backbone, load_weights
from vidssl.backbones import BACKBONES, list_backbones
from vidssl.backbones.base import INPUTS
from vidssl.errors import ConfigError, RunError
from vidssl.evals.classify import Classify
from vidssl.tasks.base import ClipSpec


def expand(line: str) -> list[tuple[str, tuple[int, ...]]]:
    name, _, size = line.rpartition(" ")
    shape = () if size == "-" else tuple(map(int, size.split("x")))
    choices = []
    for part in re.split(r"(\{[^}]*\})", name):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        numbers = [str(number) for number in range(int(span[1]), int(span[2]) + 1)] if span else None
        choices.append(numbers or part.strip("{}").split(","))
    return [("".join(parts), shape) for parts in product(*choices)]


def read_public() -> dict[str, dict[str, tuple[int, ...]]]:
    sections: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in (Path(__file__).parent / "public_keys.txt").read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line[1:-1], {})
        elif line and not line.startswith("#"):
            current.update(expand(line))
    return sections


PUBLIC = read_public()


def numbered(shapes):
    """Name -> a tensor filled with a number of its own. One number is stored for each, so that files are small."""
    return {name: torch.full((), float(n + 1)).expand(shape) for n, (name, shape) in enumerate(shapes.items())}


def container(form: str, tensors):
    """The checkpoint as the repository saves it, but for the states of optimizers."""
    if form.startswith("rspnet"):
        return {"epoch": 200, "arch": "r2plus1d-vcop", "model": tensors, "best_loss": 1.0}
    if form.startswith("efficient3d"):
        return {"epoch": 30, "arch": "shufflenet", "state_dict": tensors, "best_prec1": torch.tensor(50.0)}
    if form == "videomae fine-tuned, small":
        return {"module": tensors, "global_steps": 10}
    if form.startswith("videomae"):
        return {"model": tensors, "epoch": 1600, "scaler": {"scale": 1.0}}
    return {"meta": {"epoch": 30}, "state_dict": tensors} if form.startswith("mmaction") else tensors


def empty_backbone(name, **options):
    """A backbone whose weights nobody has drawn: quick, and nothing of it is left after a load."""
    with torch.device("meta"):
        backbone = create_backbone(name, **options)
    backbone.to_empty(device="cpu")
    for tensor in backbone.state_dict().values():
        tensor.zero_()
    backbone.set_input("unit")
    return backbone


def saved(tmp_path, content, **options):
    path = tmp_path / "public.pth"
    torch.save(content, path, **options)
    return path


PRP_LAYERS = {"conv1": "1", "conv2": "2", "conv3_1": "3a", "conv3_2": "3b"}
PRP_LAYERS |= {"conv4_1": "4a", "conv4_2": "4b", "conv5_1": "5a", "conv5_2": "5b"}


def from_prp(name):
    layer, _, which, tensor = name.split(".")
    return f"{'conv' if which == '0' else 'bn'}{PRP_LAYERS[layer]}.{tensor}"


def from_mmaction(name):
    for stage in range(4):
        name = name.replace(f"layers.{stage}.blocks.", f"features.{2 * stage}.")
        name = name.replace(f"layers.{stage}.downsample.", f"features.{2 * stage + 1}.")
    return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


# section, backbone, options, what stands before its names, and what the report says: format and input
FORMS = [
    ("vcop pretext, R(2+1)D", "r21d", {}, "base_network.", "vcop", "unit"),
    ("vcop fine-tuned, C3D", "c3d", {}, "", "vcop", "unit"),
    ("prp pretext, C3D", "c3d", {}, "module.base_network.", "prp", "unit"),
    ("prp fine-tuned, C3D", "c3d", {}, "module.", "prp", "unit"),
    ("rspnet pretext, ResNet-18", "r3d_18_hara", {}, "encoder_q.encoder.", "rspnet", "imagenet"),
    ("rspnet pretext, R(2+1)D", "r21d", {}, "encoder_q.encoder.", "rspnet", "imagenet"),
    ("rspnet fine-tuned, C3D", "c3d", {}, "encoder.", "rspnet", "imagenet"),
    ("efficient3d, ShuffleNet 0.5x", "shufflenet", {"width": 0.5}, "module.", "efficient3d", "efficient3d"),
    ("efficient3d, SqueezeNet 1.1", "squeezenet", {}, "module.", "efficient3d", "efficient3d"),
    ("efficient3d, MobileNetV2 0.45x", "mobilenet", {"width": 0.45}, "module.", "efficient3d", "efficient3d"),
    ("efficient3d, MobileNet 0.5x", "mobilenet_v1", {"width": 0.5}, "module.", "efficient3d", "efficient3d"),
    ("efficient3d, ResNet-18 shortcut A", "r3d_18_hara", {"shortcut": "A"}, "module.", "efficient3d", "efficient3d"),
    ("efficient3d, ResNet-18 shortcut B", "r3d_18_hara", {}, "module.", "efficient3d", "efficient3d"),
    ("videomae pretext, small", "vit", {"size": "small"}, "encoder.", "videomae", "imagenet"),
    ("videomae fine-tuned, small", "vit", {"size": "small", "norm": "mean"}, "", "videomae", "imagenet"),
    ("mmaction, Swin-T", "videoswin", {}, "backbone.", "mmaction", "imagenet"),
]


@pytest.mark.parametrize(("section", "name", "options", "prefix", "format", "input"), FORMS, ids=[f[0] for f in FORMS])
def test_public_checkpoints_load_whole(section, name, options, prefix, format, input, tmp_path):
    counters = not section.startswith("efficient3d")  # saved by a PyTorch that had none
    shapes = {key: shape for key, shape in PUBLIC[section].items() if counters or "num_batches" not in key}
    tensors = numbered(shapes)
    backbone = empty_backbone(name, **options)
    loaded = load_weights(backbone, saved(tmp_path, container(section, tensors)))

    translate = {"prp": from_prp, "mmaction": from_mmaction}.get(format, str)
    heads = ("linear.", "fc.", "head.", "classifier.")
    rest = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    expected = {translate(key): value for key, value in rest.items() if not key.startswith(heads)}
    for key, value in backbone.state_dict().items():
        if key.endswith("relative_position_index") or (key.endswith("num_batches_tracked") and not counters):
            continue
        assert torch.equal(value.float(), expected.pop(key)), key
    assert [key for key in expected if not key.endswith("relative_position_index")] == []
    assert (loaded.format, loaded.input, backbone.input) == (format, input, input)
    assert loaded.matched + sum(map(len, loaded.ignored.values())) == len(shapes)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "videoswin"])
def test_torchvision_state_dicts_load_whole(name, tmp_path):
    with torch.device("meta"):
        theirs = {"videoswin": video.swin3d_t}.get(name, getattr(video, name, None))().state_dict()
    tensors = numbered({key: tuple(value.shape) for key, value in theirs.items()})
    backbone = empty_backbone(name)
    loaded = load_weights(backbone, saved(tmp_path, tensors, _use_new_zipfile_serialization=name != "mc3_18"))
    for key, value in backbone.state_dict().items():
        assert key.endswith("relative_position_index") or torch.equal(value.float(), tensors[key])
    assert loaded.format == "torchvision"
    assert loaded.input == ("imagenet" if name == "videoswin" else "kinetics")


def test_the_function_of_the_weights_comes_with_them(tmp_path):
    torch.manual_seed(0)
    theirs = video.r3d_18().eval()
    backbone = create_backbone("r3d_18").eval()
    loaded = load_weights(backbone, saved(tmp_path, theirs.state_dict()))
    assert loaded.line().endswith("input kinetics; left out: classifier (400x512) 2")
    theirs.fc = torch.nn.Identity()
    x_BCTHW = torch.rand(1, 3, 8, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in INPUTS["kinetics"])
    with torch.no_grad():
        assert torch.allclose(backbone.pooled(x_BCTHW), theirs((x_BCTHW - mean) / std), atol=1e-5)


def test_input_can_be_said(tmp_path):
    path = saved(tmp_path, numbered(PUBLIC["efficient3d, ShuffleNet 0.5x"]))
    backbone = create_backbone("shufflenet", width=0.5)
    before = backbone.conv1[0].weight.clone()
    with pytest.raises(ConfigError, match="Did you mean 'imagenet'"):
        load_weights(backbone, path, input="imagnet")
    assert torch.equal(backbone.conv1[0].weight, before)
    assert load_weights(backbone, path, input="imagenet").input == "imagenet"
    assert backbone.input == "imagenet"


def without(tensors, key):
    return {name: tensor for name, tensor in tensors.items() if name != key}


SHUFFLE = numbered(PUBLIC["efficient3d, ShuffleNet 0.5x"])
HARA_B = numbered(PUBLIC["efficient3d, ResNet-18 shortcut B"])


@pytest.mark.parametrize(
    ("tensors", "name", "options", "says"),
    [
        (
            without(SHUFFLE, "module.layer2.3.conv2.weight"), "shufflenet", {"width": 0.5},
            "Of its 294 tensors 1 are not in the file (layer2.3.conv2.weight). No backbone takes them",
        ),
        (SHUFFLE, "shufflenet", {"width": 1.0}, "12x3x3x3x3 there"),
        (SHUFFLE, "shufflenet", {"width": 1.0}, "They fit backbone shufflenet (width=0.5)."),
        (SHUFFLE, "squeezenet", {}, "They fit backbone shufflenet (width=0.5)."),
        ({f"net.{key}": value for key, value in SHUFFLE.items()}, "shufflenet", {"width": 0.5}, "net.module.conv1.0.w"),
        (HARA_B, "r3d_18_hara", {"shortcut": "A"}, "15 are of layers not here (module.layer2.0.downsample.0.weight"),
        (HARA_B, "r3d_18_hara", {"shortcut": "A"}, "They fit backbone r3d_18_hara."),
        (HARA_B | {"module.layer1.2.conv1.weight": torch.zeros(1)}, "r3d_18_hara", {}, "module.layer1.2.conv1.weight"),
        (SHUFFLE | {"module.pos_embed": torch.zeros(1)}, "shufflenet", {"width": 0.5}, "(module.pos_embed)"),
    ],
    ids=["one missing", "width", "which width", "network", "prefix", "shortcut", "which", "deeper", "positions"],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_changes_nothing(tensors, name, options, says, tmp_path):
    backbone = create_backbone(name, **options, input="kinetics")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(RunError, match=re.escape(says)):
        load_weights(backbone, saved(tmp_path, tensors))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert backbone.input == "kinetics"


def test_every_backbone_can_be_named_as_the_one_that_fits():
    for name in list_backbones():
        for options in ({}, *BACKBONES.get(name).variants):
            with torch.device("meta"):
                assert create_backbone(name, **options).state_dict()


def task(name, classes, **options):
    return Classify(create_backbone(name, **options), ClipSpec(), Classify.Args(classes))


def test_a_classifier_goes_in_where_it_fits(tmp_path):
    tensors = SHUFFLE | {"module.classifier.1.weight": torch.rand(600, 480)}
    path = saved(tmp_path, tensors)
    model = task("shufflenet", 600, width=0.5)
    loaded = load_weights(model, path)
    assert loaded.classifier
    assert loaded.ignored == {}
    assert torch.equal(model.classifier.weight, tensors["module.classifier.1.weight"])
    assert torch.equal(model.backbone.conv1[0].weight, SHUFFLE["module.conv1.0.weight"])

    model = task("shufflenet", 8, width=0.5)
    before = model.classifier.weight.clone()
    loaded = load_weights(model, path)
    assert not loaded.classifier
    assert loaded.ignored == {
        "classifier (600x480, here 8x480)": ("module.classifier.1.weight", "module.classifier.1.bias")
    }
    assert torch.equal(model.classifier.weight, before)


def test_rspnets_classifier_is_the_outer_one(tmp_path):
    section = "rspnet fine-tuned, C3D"
    tensors = numbered(PUBLIC[section])
    model = task("c3d", 101)
    loaded = load_weights(model, saved(tmp_path, container(section, tensors)))
    assert loaded.ignored == {"heads and decoders": ("encoder.linear.weight", "encoder.linear.bias")}
    assert torch.equal(model.classifier.weight, tensors["fc.weight"])


def test_a_pretext_head_is_no_classifier(tmp_path):
    # RSPNet's leftover has one output; a task of one class must not take it either
    section = "rspnet pretext, ResNet-18"
    loaded = load_weights(task("r3d_18_hara", 1), saved(tmp_path, container(section, numbered(PUBLIC[section]))))
    assert not loaded.classifier
    assert {reason: len(keys) for reason, keys in loaded.ignored.items()} == {
        "queue": 2,
        "heads and decoders": 6,
        "key encoder": 106,
        "batch counters": 20,
    }


class Touch:
    """Whoever unpickles it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_unpickling_is_asked_for(tmp_path):
    mark = tmp_path / "mark"
    for extra in (argparse.Namespace(lr=0.1), Touch(mark)):
        backbone = create_backbone("shufflenet", width=0.5)
        path = saved(tmp_path, {"state_dict": SHUFFLE, "args": extra})
        with pytest.raises(RunError, match=r"runs any code that whoever made the file.*--allow-pickle.*allow_pickle="):
            load_weights(backbone, path)
        assert not mark.exists()
        assert load_weights(backbone, path, allow_pickle=True).matched == 294
    assert mark.exists()  # the warning is true


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("none.pth", None, "no file of weights at"),
        ("empty.pth", b"", "is empty"),
        ("page.pth", b"<!DOCTYPE html><html><title>Quota exceeded", "begins with b'<!DOCTYPE html>"),
        ("page.safetensors", b"<!DOCTYPE html><html>", "begins with b'<!DOCTYPE html>"),
        ("cut.pth", "zip", "cut short or damaged"),
        ("cut.tar", "legacy", "cut short or damaged"),
        ("cut.safetensors", "safetensors", "cut short or damaged"),
        ("numbers.pth", {"epoch": 3, "lr": 0.1}, "holds no tensors by name but a dict with epoch, lr"),
        ("list.pth", [torch.zeros(3)], "holds no tensors by name but a list"),
    ],
)
def test_files_that_are_no_checkpoints(file, content, says, tmp_path):
    path = tmp_path / file
    if content == "safetensors":
        save_file({"a": torch.zeros(100)}, path)
    elif content in ("zip", "legacy"):
        torch.save({"a": torch.zeros(100)}, path, _use_new_zipfile_serialization=content == "zip")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    if "cut" in file:
        path.write_bytes(path.read_bytes()[:-150])
    for allow_pickle in (False, True):
        with pytest.raises(RunError, match=re.escape(says)):
            load_weights(create_backbone("shufflenet", width=0.5), path, allow_pickle)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(RunError, match=r"is a folder.*RUN/model\.safetensors"):
        load_weights(create_backbone("shufflenet", width=0.5), tmp_path)


def own_file(tmp_path, backbone, **options):
    path = tmp_path / "model.safetensors"
    spec = {"backbone": {"name": "shufflenet", **options}}
    save_file(dict(backbone.state_dict()), path, {"spec": json.dumps(spec)})
    return path


def test_files_of_a_run(tmp_path):
    theirs, ours = create_backbone("shufflenet", width=0.5), create_backbone("shufflenet", width=0.5)
    loaded = load_weights(ours, own_file(tmp_path, theirs, width=0.5, input="kinetics"))
    assert (loaded.format, loaded.input, loaded.matched) == ("vidssl", "kinetics", 294)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    # of before there was a choice: clips went in as they are, whatever the network's public weights want
    assert load_weights(ours, own_file(tmp_path, theirs, width=0.5)).input == "unit"
    with pytest.raises(RunError, match=re.escape("are of a run with backbone shufflenet (width=0.5, groups=3)")):
        load_weights(create_backbone("shufflenet"), own_file(tmp_path, theirs, width=0.5, groups=3))


def test_a_training_checkpoint_of_a_run(tmp_path):
    theirs = task("shufflenet", 3, width=0.5)
    state = {"request": "abc", "random": [torch.zeros(3)], "step": 3, "model": theirs.state_dict()}
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = saved(tmp_path / "run" / "checkpoints", state)
    model = task("shufflenet", 3, width=0.5)
    with pytest.raises(RunError, match=r"spec\.toml says how its pixels"):
        load_weights(model, path)
    spec = {"backbone": {"name": "shufflenet", "width": 0.5, "input": "imagenet"}}
    (tmp_path / "run" / "spec.toml").write_text(tomli_w.dumps(spec))
    loaded = load_weights(model, path)
    assert (loaded.format, loaded.input, loaded.classifier, loaded.ignored) == ("vidssl", "imagenet", True, {})
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in model.state_dict().items())
