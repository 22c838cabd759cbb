"""The robustness test: what the network is shown, what is counted, what is kept. Run as a module it is a rank."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.engine.test_ranks import launch
from vidssl.backbones.base import Backbone
from vidssl.data import ClipRequest, open_decoder, open_store
from vidssl.data.decode.base import Decoder
from vidssl.data.store import video_key
from vidssl.engine.context import Context
from vidssl.engine.progress import Reporter
from vidssl.engine.runs import RunDirectory
from vidssl.errors import ConfigError, RunError
from vidssl.evals import features, robustness
from vidssl.evals.classify import Classify
from vidssl.evals.finetune import clip_scores, video_probabilities
from vidssl.evals.robustness import CLEAN, check_noises, relative_drop, scores
from vidssl.evals.target import Target
from vidssl.spec import EngineSpec, EvalSpec, RunSpec, from_dict, to_dict
from vidssl.tasks.base import ClipSpec
from vidssl.transforms.geometry import centre_clip
from vidssl.transforms.noise import TABLES, add_noise, frame_keys

CLIP = ClipSpec(frames=4, size=28)
SIDE = 32  # its crop is 28 pixels, so that the network gets the very pixels
LEVELS = (51, 89, 115, 204)  # grey levels of the flat videos
THRESHOLD = 0.1


def make_spec(**eval_fields) -> RunSpec:
    fields = {"clips": 3, "batch": 5, **eval_fields}
    return replace(RunSpec(), seed=7, eval=replace(EvalSpec(), **fields))


def make_context(folder: Path, accelerator: Accelerator | None = None) -> Context:
    accelerator = accelerator or Accelerator(cpu=True)
    run = RunDirectory(folder, accelerator.is_main_process)
    engine = EngineSpec(precision="fp32", compile="off", layout="contiguous")
    return Context(accelerator, engine, run, "request", 7, Reporter(quiet=True))


class MemoryDecoder(Decoder):
    """Videos as arrays; notes which clips were asked for."""

    name = "memory"

    def __init__(self, store, videos: list[np.ndarray]) -> None:
        super().__init__(store, torch.device("cpu"), 1)
        self.videos, self.seen = videos, []

    def decode(self, requests):
        self.seen += [(request.video, *request.frame_indices.tolist()) for request in requests]
        return torch.stack([torch.from_numpy(self.videos[r.video][r.frame_indices]) for r in requests])


def grey_target() -> Target:
    """Class 0: four flat videos of different greys. Class 1: four chequered ones. All are test videos."""
    chequered = np.indices((SIDE, SIDE)).sum(0) % 2 * 255
    pictures = [np.full((SIDE, SIDE), level) for level in LEVELS] + [chequered] * 4
    videos = [np.tile(p[None, ..., None], (9 + i, 1, 1, 3)).astype(np.uint8) for i, p in enumerate(pictures)]
    ids = [f"video{i}" for i in range(8)]
    store = SimpleNamespace(
        ids=ids,
        keys=np.array([video_key(i) for i in ids], np.uint64),
        frames=np.array([len(video) for video in videos]),
        labels=np.repeat([0, 1], 4),
        meta=SimpleNamespace(picture=(SIDE, SIDE)),
        fingerprint=lambda: "grey",
    )
    return Target(MemoryDecoder(store, videos), np.arange(8), np.arange(8), 2)


class Contrast(Backbone):
    """Its only feature is the standard deviation of the pixels."""

    feature_dim, stride, taps = 1, (1, 1, 1), ()

    def pooled(self, x_BCTHW):
        return x_BCTHW.flatten(1).std(dim=1, keepdim=True)


class Watched(Classify):
    """Class 1 is what has more contrast than `THRESHOLD`. Notes the pixels that it is shown, and can be stopped."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(Contrast(), CLIP, Classify.Args(2))
        self.classifier.weight.data = torch.tensor([[-1.0], [1.0]])
        self.classifier.bias.data = torch.tensor([THRESHOLD, -THRESHOLD])
        self.shown, self.largest, self.left = [], 0, stop_after

    def probabilities(self, x_BCTHW):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        self.largest = max(self.largest, len(x_BCTHW))
        self.shown += [digest(x) for x in x_BCTHW]
        return super().probabilities(x_BCTHW)


def digest(x: torch.Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def run_robustness(folder, task=None, target=None, accelerator=None, **eval_fields) -> dict:
    task, target = task or Watched(), target or grey_target()
    return robustness.robustness(task, target, CLIP, make_spec(**eval_fields), make_context(folder, accelerator))


def test_accuracy_falls_where_the_noise_becomes_contrast(tmp_path):
    result = run_robustness(tmp_path, noise_kinds=["gaussian", "shot", "speckle"])
    assert result["clean"]["top1"] == 1.0
    # the contrast of a flat grey x under each noise, by its definition; chequered videos keep theirs
    contrast = {"gaussian": lambda x, c: c, "shot": lambda x, c: (x / c) ** 0.5, "speckle": lambda x, c: c * x}
    for kind, deviation in contrast.items():
        wrong = [sum(deviation(level / 255, c) > THRESHOLD for level in LEVELS) for c in TABLES["video"][kind]]
        got = [result["noises"][kind][str(severity)] for severity in range(1, 6)]
        assert [entry["top1"] for entry in got] == [(8 - n) / 8 for n in wrong]
        assert [entry["relative_drop"] for entry in got] == [pytest.approx(n / 8) for n in wrong]
        assert wrong[0] < wrong[4]
    shot = result["noises"]["shot"]
    assert [shot[s]["top1"] for s in "12345"] == [1.0, 1.0, 7 / 8, 5 / 8, 4 / 8]


def test_the_table_of_the_spec_is_used(tmp_path):
    # shot noise of c = 60 makes the two lighter greys (0.45 and 0.8) deviate by 0.087 and 0.115; of c = 250 neither
    only = {"noise_kinds": ["shot"], "noise_severities": [1]}
    assert run_robustness(tmp_path / "a", **only)["noises"]["shot"]["1"]["top1"] == 1.0
    other = run_robustness(tmp_path / "b", noise_table="imagenet-c", **only)
    assert other["noises"]["shot"]["1"]["top1"] == 7 / 8
    assert other["table"] == "imagenet-c"


def test_each_clip_is_decoded_once_and_few_are_held_at_once(tmp_path):
    target, task = grey_target(), Watched()
    run_robustness(tmp_path, task, target)
    indices = features.clip_indices(target.decoder.store.frames, CLIP, 3)
    want = [(video, *frames.tolist()) for video, clips in enumerate(indices) for frames in clips]
    assert target.decoder.seen == want
    assert task.largest == 5
    assert len(task.shown) == 8 * 3 * 21


def test_the_network_is_shown_the_noise_of_video_and_frame(tmp_path):
    target, task = grey_target(), Watched()
    run_robustness(tmp_path, task, target, noise_kinds=["impulse"], noise_severities=[2], batch=100)
    video, clip = 6, 2
    frames = features.clip_indices(target.decoder.store.frames, CLIP, 3)[video, clip]
    pixels = target.decoder.decode([ClipRequest(video, frames)])
    key = int(np.uint64(video_key("video6")).view(np.int64))
    keys = frame_keys(torch.tensor([key]), torch.from_numpy(frames)[None], 7)
    noisy = centre_clip(add_noise(pixels, "impulse", 2, "video", seed=keys), CLIP.size)
    assert task.shown[24 + video * 3 + clip] == digest(noisy[0])
    assert task.shown[video * 3 + clip] == digest(centre_clip(pixels, CLIP.size)[0])


def test_noise_and_result_hang_on_no_batch(tmp_path):
    shown, results = [], []
    for batch in (1, 4, 32):
        task = Watched()
        results.append(run_robustness(tmp_path / str(batch), task, batch=batch, noise_severities=[1, 5]))
        shown.append(sorted(task.shown))
    assert shown[0] == shown[1] == shown[2]
    assert len(set(shown[0])) > 8 * 3 * 8  # no noise comes twice, but flat clean clips look the same
    assert results[0] == results[1] == results[2]


def test_two_ranks_show_the_same_noise_and_give_the_same_result(tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "PIECE_PASSES", 2 * 3 * 9)
    task = Watched()
    alone = run_robustness(tmp_path / "alone", task, noise_severities=[1, 5])
    launch("tests.evals.test_robustness", 2, tmp_path)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [rank["result"] for rank in ranks] == [alone, alone]
    assert all(len(rank["shown"]) == len(task.shown) // 2 for rank in ranks)
    assert sorted(ranks[0]["shown"] + ranks[1]["shown"]) == sorted(task.shown)
    pieces = [sorted((tmp_path / name / "robustness").iterdir()) for name in ("alone", "ranks")]
    assert [p.read_bytes() for p in pieces[0]] == [p.read_bytes() for p in pieces[1]]


@pytest.fixture(scope="module")
def tiny_target(tiny_store) -> Target:
    return Target(open_decoder("pyav", open_store(tiny_store), threads=2), np.arange(0, 6), np.arange(2, 12), 3)


class Random(Backbone):
    """A small network of random weights."""

    feature_dim, stride, taps = 8, (1, 4, 4), ()

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(3, 8, 4, stride=(1, 4, 4)), nn.BatchNorm3d(8), nn.ReLU())

    def feature_map(self, x_BCTHW):
        return self.layers(x_BCTHW)


def random_task(target: Target) -> Classify:
    """Its answers differ from video to video, because its classifier weighs what differs between them."""
    torch.manual_seed(0)
    task = Classify(Random(), CLIP, Classify.Args(3)).eval()
    x_BCTHW = torch.cat([x for _, x in features.clip_batches(target.decoder, target.test, CLIP, 1, 32)])
    with torch.no_grad():
        features_BD = task.backbone.pooled(x_BCTHW)
        task.classifier.weight.mul_(1000)
        task.classifier.bias.copy_(-task.classifier.weight @ features_BD.mean(0))
    return task


def predictions(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(p)["predicted"] for p in sorted((folder / "robustness").iterdir())], axis=1)


@pytest.mark.parametrize(("average", "stride"), [("softmax", 1), ("logits", 1), ("softmax", 3)])
def test_the_clean_accuracy_is_that_of_the_fine_tuning_test(tmp_path, tiny_target, average, stride):
    task, context = random_task(tiny_target), make_context(tmp_path)
    result = run_robustness(tmp_path, task, tiny_target, noise_kinds=["shot"], average=average, stride=stride)
    # as `finetune` tests
    network, decoder, rows = clip_scores(task, average), tiny_target.decoder, tiny_target.test
    tested_VKC = features.per_clip(network, decoder, rows, CLIP, 3, 32, context, "test", stride)
    said = video_probabilities(tested_VKC, average).argmax(axis=1)
    assert predictions(tmp_path)[0].tolist() == said.tolist()
    assert len(set(said)) > 1
    assert result["clean"]["top1"] == (said == tiny_target.labels[rows]).mean()
    assert result["videos"] == 10
    assert result["resolution"] == [48, 64]
    assert result["network_size"] == 28
    # of the training videos most are of class 0, of the test videos two
    assert result["chance"] == pytest.approx(2 / 10)


def test_noise_is_the_same_whichever_decoder_gives_the_frames(tmp_path, tiny_target):
    store, only = tiny_target.decoder.store, {"noise_severities": [3]}
    whole = [tiny_target.decoder.decode([ClipRequest(v, np.arange(n))])[0] for v, n in enumerate(store.frames)]
    memory = MemoryDecoder(store, [video.numpy() for video in whole])
    tasks = [Watched(), Watched()]
    for task, decoder in zip(tasks, (tiny_target.decoder, memory), strict=True):
        target = replace(tiny_target, decoder=decoder)
        run_robustness(tmp_path / decoder.name, task, target, **only)
    assert tasks[0].shown == tasks[1].shown
    assert len(tasks[0].shown) == 10 * 3 * 5


def test_a_stopped_test_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    whole = run_robustness(tmp_path / "whole")
    monkeypatch.setattr(robustness, "PIECE_PASSES", 2 * 3 * 21)  # two videos a piece: four pieces, 42 passes each
    stopped, target = tmp_path / "stopped", grey_target()
    with pytest.raises(KeyboardInterrupt):
        run_robustness(stopped, Watched(stop_after=2 * 42 + 30), target)
    assert {video for video, *_ in target.decoder.seen} == {0, 1, 2, 3, 4, 5}
    assert [p.name for p in sorted((stopped / "robustness").iterdir())] == ["000000.npz", "000001.npz"]
    target.decoder.seen.clear()
    assert run_robustness(stopped, Watched(), target) == whole
    assert {video for video, *_ in target.decoder.seen} == {4, 5, 6, 7}
    target.decoder.seen.clear()
    assert run_robustness(stopped, Watched(), target) == whole
    assert not target.decoder.seen


@pytest.mark.parametrize(
    "change", ["network", {"noise_table": "imagenet-c"}, {"clips": 2}, {"noise_severities": [1, 2, 3, 5, 4]}]
)
def test_pieces_of_another_test_are_not_taken(tmp_path, change):
    run_robustness(tmp_path, Watched())
    task, fields = Watched(), {}
    if change == "network":
        task.classifier.bias.data[0] += 1e-6
    else:
        fields = change
    before = (tmp_path / "robustness" / "000000.npz").read_bytes()
    with pytest.raises(RunError, match=r"000000.npz belongs to a test of another network.*Move robustness/ away"):
        run_robustness(tmp_path, task, **fields)
    assert (tmp_path / "robustness" / "000000.npz").read_bytes() == before


def test_a_damaged_piece_is_named(tmp_path):
    run_robustness(tmp_path)
    piece = tmp_path / "robustness" / "000000.npz"
    for content in (piece.read_bytes()[:200], b""):
        piece.write_bytes(content)
        with pytest.raises(RunError, match=r"000000.npz, a piece .* cannot be read"):
            run_robustness(tmp_path)


def test_relative_drop_by_hand():
    assert relative_drop(0.8, 0.6) == pytest.approx(0.25)
    assert relative_drop(0.5, 0.6) == pytest.approx(-0.2)
    assert relative_drop(0.0, 0.0) is None
    assert relative_drop(0.0, 0.3) is None
    # ten videos, eight right when clean; of those under noise
    right = {CLEAN: 8, ("shot", 1): 6, ("shot", 4): 4, ("impulse", 1): 7, ("impulse", 4): 0}
    result = scores(np.array([np.arange(10) < n for n in right.values()]), list(right))
    assert result["clean"]["top1"] == 0.8
    assert result["noises"]["shot"]["4"]["relative_drop"] == pytest.approx(0.5)
    # (0.6 + 0.7) / 2 = 0.65; (0.4 + 0.0) / 2 = 0.2; all four: 1.7 / 4 = 0.425
    assert result["relative_drop"] == pytest.approx({"1": 0.15 / 0.8, "4": 0.6 / 0.8, "mean": 0.375 / 0.8})
    # (0.6 + 0.4) / 2 = 0.5; (0.7 + 0.0) / 2 = 0.35
    assert result["relative_drop_per_noise"] == pytest.approx({"shot": 0.3 / 0.8, "impulse": 0.45 / 0.8})
    assert json.loads(json.dumps(result)) == result


def test_without_a_clean_hit_there_is_no_drop():
    result = scores(np.array([[False, False], [False, True]]), [CLEAN, ("shot", 2)])
    assert result["relative_drop"] == {"2": None, "mean": None}
    assert result["relative_drop_per_noise"] == {"shot": None}
    assert result["noises"]["shot"]["2"]["relative_drop"] is None
    assert result["noises"]["shot"]["2"]["top1"] == 0.5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"noise_kinds": ["gausian"]}, "unknown noise 'gausian'. Did you mean 'gaussian'"),
        ({"noise_kinds": ["shot", "fog"]}, "unknown noise 'fog'.*impulse"),
        ({"noise_severities": [1, 6]}, "severity 6 is none of 1, 2, 3, 4, 5"),
        ({"noise_table": "cifar"}, "unknown noise table 'cifar'.*imagenet-c, video"),
        ({"noise_kinds": []}, r"eval.noise_kinds = \[\].*at least one"),
        ({"noise_severities": []}, r"eval.noise_severities = \[\].*at least one"),
        ({"noise_severities": [2, 2]}, r"eval.noise_severities = \[2, 2\].*each once"),
    ],
)
def test_bad_noises_are_refused_before_anything_is_decoded(tmp_path, fields, says):
    with pytest.raises(ConfigError, match=says):
        check_noises(make_spec(**fields).eval)
    target = grey_target()
    with pytest.raises(ConfigError, match=says):
        run_robustness(tmp_path, target=target, **fields)
    assert not target.decoder.seen
    assert not (tmp_path / "robustness").exists()


def test_the_defaults_are_all_twenty_of_the_video_table():
    spec = from_dict(to_dict(RunSpec())).eval
    check_noises(spec)
    assert (spec.noise_table, spec.noise_severities) == ("video", [1, 2, 3, 4, 5])
    assert sorted(spec.noise_kinds) == ["gaussian", "impulse", "shot", "speckle"]


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    accelerator, task = Accelerator(cpu=True), Watched()
    robustness.PIECE_PASSES = 2 * 3 * 9
    result = run_robustness(folder / "ranks", task, accelerator=accelerator, noise_severities=[1, 5])
    found = json.dumps({"result": result, "shown": task.shown})
    (folder / f"rank{accelerator.process_index}.json").write_text(found)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
