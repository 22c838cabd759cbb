"""The training loop: exact resume, the share of each sample in the gradient, and what is told when it goes wrong."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from vidssl.engine import checkpoint
from vidssl.engine.context import Context
from vidssl.engine.progress import Reporter
from vidssl.engine.runs import RunDirectory
from vidssl.engine.setup import resolve_engine
from vidssl.engine.signals import Interrupted
from vidssl.engine.trainer import Trainer
from vidssl.errors import ConfigError, RunError
from vidssl.spec import EngineSpec, StageSpec

from .toys import ToyDecoder, toy_store, toy_task

STAGE = StageSpec(epochs=4, batch=4, lr=0.05, warmup_epochs=1.0)


def context(path, **engine) -> Context:
    spec = EngineSpec(precision="fp32", compile="off", layout="contiguous", **engine)
    return Context(Accelerator(cpu=True), spec, RunDirectory(path), "request", 0, Reporter(quiet=True))


def train(path, decoder=None, stage=STAGE, seed=0, **engine):
    decoder = decoder or ToyDecoder(toy_store())
    task = toy_task(seed)
    result = Trainer("pretrain", task, stage, decoder, np.arange(13), context(path, **engine)).fit()
    return task, result


def log_without_time(path) -> list[dict]:
    return [
        {k: v for k, v in json.loads(line).items() if k != "time"}
        for line in (path / "log.jsonl").read_text().splitlines()
    ]


def equal(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Killed(BaseException):
    pass


class KilledDecoder(ToyDecoder):
    """Dies after so many clips, as a process does: nothing is cleaned up, no checkpoint is written."""

    def __init__(self, store, clips: int) -> None:
        super().__init__(store)
        self.left = clips

    def decode(self, requests):
        self.left -= len(requests)
        if self.left < 0:
            raise Killed
        return super().decode(requests)


@pytest.mark.parametrize("killed_after", [3, 9, 14, 21, 30, 47])
@pytest.mark.parametrize("engine", [{"checkpoint_every": 3, "log_every": 2}, {"checkpoint_every": 1, "log_every": 5}])
def test_killed_and_started_again_equals_never_stopped(tmp_path, killed_after, engine):
    whole, _ = train(tmp_path / "whole", **engine)
    with pytest.raises(Killed):
        train(tmp_path / "cut", KilledDecoder(toy_store(), killed_after), **engine)
    resumed, _ = train(tmp_path / "cut", **engine)
    assert equal(whole, resumed)
    assert log_without_time(tmp_path / "whole") == log_without_time(tmp_path / "cut")


def test_log_of_a_killed_run_may_end_in_half_a_line(tmp_path):
    whole, _ = train(tmp_path / "whole", log_every=2, checkpoint_every=2)
    with pytest.raises(Killed):
        train(tmp_path / "cut", KilledDecoder(toy_store(), 30), log_every=2, checkpoint_every=2)
    with open(tmp_path / "cut" / "log.jsonl", "a") as file:
        file.write('{"stage": "pretrain", "st')
    resumed, _ = train(tmp_path / "cut", log_every=2, checkpoint_every=2)
    assert equal(whole, resumed)
    assert log_without_time(tmp_path / "whole") == log_without_time(tmp_path / "cut")


class SignallingDecoder(ToyDecoder):
    def decode(self, requests):
        if len(self.seen) >= 20:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().decode(requests)


def test_sigterm_writes_a_checkpoint_and_the_rest_is_exact(tmp_path):
    whole, _ = train(tmp_path / "whole", log_every=2)
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path / "cut", SignallingDecoder(toy_store()), log_every=2)
    assert stopped.value.number == signal.SIGTERM
    assert "step" in stopped.value.where
    resumed, result = train(tmp_path / "cut", log_every=2)
    assert result["resumed_at_step"] > 0
    assert equal(whole, resumed)


def test_accumulated_gradient_is_the_mean_over_the_step(tmp_path):
    # without batch norm and dropout the split into passes must not matter
    def plain(path, micro):
        task = toy_task()
        task.backbone.norm = torch.nn.Identity()
        task.head[0] = torch.nn.Identity()
        stage = StageSpec(epochs=2, batch=7, lr=0.05)
        Trainer("pretrain", task, stage, ToyDecoder(toy_store()), np.arange(13), context(path, micro_batch=micro)).fit()
        return task

    whole, parts = plain(tmp_path / "a", 0), plain(tmp_path / "b", 3)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_each_video_once_an_epoch_through_the_loader(tmp_path):
    decoder = ToyDecoder(toy_store())
    train(tmp_path, decoder)
    videos = [video for video, _ in decoder.seen]
    assert [sorted(videos[i : i + 13]) for i in range(0, 52, 13)] == [list(range(13))] * 4


def test_truncated_checkpoint_is_named_and_nothing_is_lost(tmp_path):
    train(tmp_path, checkpoint_every=4)
    newest = checkpoint.list_checkpoints(tmp_path / "checkpoints", "pretrain")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(RunError, match=newest.name):
        train(tmp_path, checkpoint_every=4)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before
    newest.unlink()
    whole, _ = train(tmp_path / "whole")
    assert equal(train(tmp_path)[0], whole)


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(RunError, match=r"pretrain\.lr"):
        train(tmp_path, stage=StageSpec(epochs=3, batch=4, lr=1e30))


def test_bf16_trains_near_fp32(tmp_path):
    # what a GPU does by default, on a CPU: same clips, rounded arithmetic, weights kept in fp32
    stage = StageSpec(epochs=2, batch=4, lr=0.05)
    whole, _ = train(tmp_path / "fp32", stage=stage)
    task = toy_task()
    shared = context(tmp_path / "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    shared.accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    Trainer("pretrain", task, stage, ToyDecoder(toy_store()), np.arange(13), shared).fit()
    AcceleratorState._reset_state(reset_partial_state=True)
    assert all(p.dtype == torch.float32 for p in task.parameters())
    assert not equal(whole, task), "bf16 was asked for and not used"
    for a, b in zip(whole.parameters(), task.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.05)


@pytest.mark.slow
def test_compiled_trains_as_eager_and_its_checkpoints_fit_both(tmp_path):
    stage = StageSpec(epochs=2, batch=4, lr=0.05)

    def plain():
        task = toy_task()
        task.head[0] = torch.nn.Identity()  # a compiled dropout draws other numbers
        return task

    eager = plain()
    Trainer("pretrain", eager, stage, ToyDecoder(toy_store()), np.arange(13), context(tmp_path / "eager")).fit()
    compiled = plain()
    shared = context(tmp_path / "compiled")
    AcceleratorState._reset_state(reset_partial_state=True)
    shared.accelerator = Accelerator(cpu=True, dynamo_backend="inductor")
    Trainer("pretrain", compiled, stage, ToyDecoder(toy_store()), np.arange(13), shared).fit()
    AcceleratorState._reset_state(reset_partial_state=True)
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    state = torch.load(checkpoint.list_checkpoints(tmp_path / "compiled" / "checkpoints", "pretrain")[-1])
    assert state["model"].keys() == eager.state_dict().keys()


def test_a_pass_too_small_for_batch_norm_says_so(tmp_path):
    task = toy_task()
    task.backbone.conv.stride = (4, 8, 8)  # one value a channel is left of one clip
    with pytest.raises(RunError, match=r"pretrain\.batch"):
        Trainer(
            "pretrain", task, StageSpec(epochs=1, batch=1), ToyDecoder(toy_store()), np.arange(3), context(tmp_path)
        ).fit()


def test_the_newest_two_checkpoints_stay_until_the_end(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, KilledDecoder(toy_store(), 40), checkpoint_every=1)
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 2
    train(tmp_path, checkpoint_every=1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["pretrain-00000016.pt"]


def test_by_default_an_epochs_end_is_saved_when_a_minute_has_passed(tmp_path, monkeypatch):
    saved = []
    whole = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: saved.append(args[2]) or whole(*args))
    train(tmp_path / "quick")
    assert saved == [16]
    monkeypatch.setattr("vidssl.engine.trainer.CHECKPOINT_SECONDS", 0.0)
    train(tmp_path / "slow")
    assert saved == [16, 4, 8, 12, 16]


@pytest.mark.parametrize(("batch", "largest"), [(4, 4), (12, 7), (13, 13), (64, 13)])
def test_steps_of_another_size_than_the_batch_are_told_once_and_recorded(tmp_path, batch, largest):
    shared, said = context(tmp_path), []
    shared.reporter.say = said.append
    stage = StageSpec(epochs=1, batch=batch, lr=0.05)
    result = Trainer("pretrain", toy_task(), stage, ToyDecoder(toy_store()), np.arange(13), shared).fit()
    assert result["largest_step"] == largest
    told = [text for text in said if f"{largest} samples at most, not pretrain.batch = {batch}" in text]
    assert len(told) == (largest != batch)


def test_bf16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match=r"bf16 needs a GPU.*Legal here: fp32, auto"):
        resolve_engine(EngineSpec(precision="bf16"), on_gpu=False)
    assert resolve_engine(EngineSpec(precision="bf16"), on_gpu=True).precision == "bf16"


def test_a_task_that_needs_whole_steps_refuses_to_have_them_split(tmp_path):
    task = toy_task()
    task.whole_steps = True
    with pytest.raises(ConfigError, match=r"step of 4 .*engine\.micro_batch=3.*pretrain\.batch"):
        Trainer("pretrain", task, STAGE, ToyDecoder(toy_store()), np.arange(13), context(tmp_path, micro_batch=3))
    Trainer("pretrain", task, STAGE, ToyDecoder(toy_store()), np.arange(13), context(tmp_path, micro_batch=4))


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_what_a_task_keeps_comes_back_once_a_step_and_is_not_logged(tmp_path, micro_batch):
    class Keeping(type(toy_task())):
        kept = ("numbers",)

        def views(self, frames_BTHWC, params):
            return {**super().views(frames_BTHWC, params), "numbers": frames_BTHWC[:, 0, 0, 0, 0].long()}

        def forward(self, views):
            return {**super().forward(views), "numbers": views["numbers"]}

        def after_step(self, kept):
            assert not torch.is_grad_enabled()
            self.steps.append(kept["numbers"].tolist())

    task = toy_task()
    task.__class__, task.steps = Keeping, []
    shared = context(tmp_path, micro_batch=micro_batch)
    trainer = Trainer("pretrain", task, STAGE, ToyDecoder(toy_store()), np.arange(13), shared)
    trainer.fit()
    assert task.steps == [trainer.plan.step(number).samples.tolist() for number in range(16)]
    assert all("numbers" not in line for line in log_without_time(tmp_path))


def test_a_tasks_own_chance_replaces_the_fixed_one_in_the_log(tmp_path):
    class Varying(type(toy_task())):
        def forward(self, views):
            return {**super().forward(views), "chance": torch.tensor(1 / len(views["label"]))}

    task = toy_task()
    task.__class__ = Varying
    Trainer("pretrain", task, STAGE, ToyDecoder(toy_store()), np.arange(13), context(tmp_path, log_every=1)).fit()
    # thirteen samples in four steps: three of 3 and one of 4
    assert sorted(line["chance"] for line in log_without_time(tmp_path)[:4]) == pytest.approx([1 / 4] + [1 / 3] * 3)
