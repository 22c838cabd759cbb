"""Momentum contrast against straightforward references: plain loops, lists, float64.

Run as a module under torchrun, it writes what its rank has after three epochs, for the comparison of one process and
two.
"""

from __future__ import annotations

import io
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from tests.engine.toys import ToyBackbone, ToyDecoder, toy_store
from vidssl import create_task
from vidssl.backbones.base import Backbone
from vidssl.data.plan import uniforms
from vidssl.engine.batchnorm import synchronise
from vidssl.engine.context import Context
from vidssl.engine.progress import Reporter
from vidssl.engine.runs import RunDirectory
from vidssl.engine.trainer import Trainer
from vidssl.errors import ConfigError
from vidssl.spec import EngineSpec, StageSpec
from vidssl.tasks import momentum
from vidssl.tasks.base import ClipSpec
from vidssl.tasks.momentum import KeyQueue, encode_keys, info_nce, is_first

ROOT = Path(__file__).parents[2]
TASKS = ("tdl", "rspnet")


class TinyBackbone(Backbone):
    feature_dim, stride, taps = 16, (2, 4, 4), ()

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 16, (2, 4, 4), stride=(2, 4, 4)), nn.BatchNorm3d(16)

    def feature_map(self, x_BCTHW):
        return torch.relu(self.norm(self.conv(x_BCTHW)))


def make(name="tdl", seed=0, **options):
    torch.manual_seed(seed)
    return create_task(name, TinyBackbone(), ClipSpec(4, 16), **{"queue": 10, **options})


def some_views(task, epoch=0, count=4):
    u = uniforms(0, epoch, np.arange(count, dtype=np.uint64), task.request().num_uniforms)
    drawn = task.draw(u, np.full(count, 60))
    generator = torch.Generator().manual_seed(epoch)
    frames = torch.randint(
        0, 256, (count, task.request().num_frames, 18, 24, 3), dtype=torch.uint8, generator=generator
    )
    return task.views(frames, {name: torch.from_numpy(values) for name, values in drawn.params.items()})


def one_step(task, optimizer, views):
    out = task(views)
    optimizer.zero_grad()
    out["loss"].backward()
    optimizer.step()
    with torch.no_grad():
        task.after_step({name: out[name].detach() for name in task.kept})


def key_clips(name, views):
    """What the key network sees, in this order; the keys of the last go into the queue."""
    return [views["positive_BCTHW"]] if name == "tdl" else [views["same_BCTHW"], views["other_BCTHW"]]


@pytest.mark.parametrize("name", TASKS)
def test_three_steps_against_a_plain_reference(name):
    task = make(name, momentum=0.9)
    optimizer = torch.optim.SGD(task.parameter_groups(), lr=0.1, momentum=0.9)
    reference = deepcopy(task.key_encoder).double()
    rows, position = [row.double().numpy() for row in task.queue.keys], 0
    for step in range(3):
        views = some_views(task, step)
        for clips in key_clips(name, views):
            keys = reference(clips.double())  # both passes move the statistics of batch norm
        one_step(task, optimizer, views)
        for key in keys[:, 0]:
            rows[position] = key.numpy()
            position = (position + 1) % 10
        queries = [*task.backbone.parameters(), *task.heads.parameters()]
        for own, theirs in zip(reference.parameters(), queries, strict=True):
            own.data = 0.9 * own.data + 0.1 * theirs.data.double()
    assert int(task.queue.position) == position == 2  # 12 keys through a queue of 10
    assert np.abs(task.queue.keys.numpy() - np.stack(rows)).max() < 1e-5
    for (key, value), expected in zip(
        task.key_encoder.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        assert np.abs(value.double().numpy() - expected.numpy()).max() < 1e-6, key
    behind = float((task.key_encoder.backbone.conv.weight - task.backbone.conv.weight).detach().abs().max())
    assert behind > 1e-3  # it is not the query network itself


@pytest.mark.parametrize("name", TASKS)
def test_forward_moves_nothing_but_batch_norm(name):
    task = make(name)
    before = {key: value.clone() for key, value in task.state_dict().items()}
    task(some_views(task))["loss"].backward()
    changed = {
        key.rpartition(".")[2] for key, value in task.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    task.eval()
    before = {key: value.clone() for key, value in task.state_dict().items()}
    with torch.inference_mode():
        assert set(task.kept) & set(task(some_views(task))) == set()
    assert all(torch.equal(value, before[key]) for key, value in task.state_dict().items())


@pytest.mark.parametrize("name", TASKS)
def test_a_checkpoint_goes_on_exactly(name):
    task = make(name)
    optimizer = torch.optim.SGD(task.parameter_groups(), lr=0.1)
    for step in range(3):
        one_step(task, optimizer, some_views(task, step))
    buffer = io.BytesIO()
    torch.save(task.state_dict(), buffer)
    other = make(name, seed=1)
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for one in (task, other):
        one_step(one, torch.optim.SGD(one.parameter_groups(), lr=0.1), some_views(one, 3))
    assert int(task.queue.position) == 6
    for key, value in task.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_statistics_of_the_key_network_are_its_own():
    task = make(momentum=0.5)
    clips = torch.rand(4, 3, 4, 16, 16)
    with torch.no_grad():
        task.key_encoder(clips)
        assert float(task.backbone.norm.running_mean.abs().max()) == 0
        seen = task.key_encoder.backbone.norm.running_mean.clone()
        assert float(seen.abs().max()) > 0
        task.key_encoder.follow(task.backbone, task.heads, 0.5)
    assert torch.equal(task.key_encoder.backbone.norm.running_mean, seen)


# The queue


def test_queue_begins_with_unit_vectors_of_the_seed():
    torch.manual_seed(3)
    one = KeyQueue(50, 8)
    torch.rand(7)
    assert torch.equal(one.keys, KeyQueue(50, 8).keys)
    assert torch.allclose(one.keys.norm(dim=1), torch.ones(50))
    torch.manual_seed(4)
    assert not torch.equal(one.keys, KeyQueue(50, 8).keys)


def test_queue_wraps_around():
    torch.manual_seed(0)
    queue, position = KeyQueue(7, 2), 0
    rows = queue.keys.tolist()
    for count in (3, 3, 3, 7, 0, 1, 5, 6):
        keys = torch.rand(count, 2)
        queue.push(keys)
        for key in keys.tolist():
            rows[position] = key
            position = (position + 1) % 7
        assert queue.keys.tolist() == rows
        assert int(queue.position) == position
    with pytest.raises(ValueError, match="8 keys for a queue of 7"):
        queue.push(torch.rand(8, 2))


def test_an_empty_queue_takes_and_gives_nothing():
    queue = KeyQueue(0, 2)
    queue.push(torch.rand(3, 2))
    assert queue(torch.rand(4, 2)).shape == (4, 0)
    assert info_nce(torch.tensor([0.3]), torch.zeros(1, 0), 0.07) == 0


def test_similarities_are_not_rounded_to_bfloat16():
    queue, query = KeyQueue(20, 128), nn.functional.normalize(torch.rand(3, 128), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = queue(query)
    assert got.dtype == torch.float32
    assert (got.double() - query.double() @ queue.keys.double().T).abs().max() < 1e-6


# Losses


def test_info_nce_by_hand():
    # logits 1, 0.2, 0.4: -1 + log(e + 1.221403 + 1.491825); logits -1, 0, 0: 1 + log(0.367879 + 2)
    positive, negatives = torch.tensor([0.5, -0.5]), torch.tensor([[0.1, 0.2], [0.0, 0.0]])
    assert info_nce(positive, negatives, 0.5).item() == pytest.approx((0.692216 + 1.861995) / 2, abs=1e-5)


def test_first_means_strictly_first():
    positive = torch.tensor([0.5, 0.5, 0.5])
    negatives = torch.tensor([[0.4, 0.1], [0.5, 0.1], [0.6, 0.1]])
    assert is_first(positive, negatives).tolist() == [1, 0, 0]


# Small data


@pytest.mark.parametrize("name", TASKS)
def test_queue_and_data(name):
    task = make(name, queue=32)
    assert task.check_data(1000, 32) == []
    assert task.check_data(32, 8) == []
    (note,) = task.check_data(31, 8)
    assert "32 keys" in note
    assert "31 videos" in note
    assert "task.queue=8" in note
    assert "task.queue=7" in task.check_data(28, 4)[0]
    with pytest.raises(ConfigError, match=r"task\.queue"):
        task.check_data(1000, 33)
    assert task.check_data(20, 33)  # a step cannot have more than there are
    assert make(name, queue=1).check_data(1000, 1) == []


def test_the_queue_that_is_proposed_makes_it_rare():
    """How often a queue of N / 4 holds the video's own key, in the order that the plan deals."""
    videos, met = 400, []
    last = {}
    for epoch in range(6):
        for place, video in enumerate(np.random.default_rng(epoch).permutation(videos)):
            now = epoch * videos + place
            if video in last:
                met.append(now - last[video] <= videos // 4)
            last[video] = now
    assert np.mean(met) == pytest.approx(1 / 32, abs=0.015)


# One process and two


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """(world, rank) -> what `one_rank` gives."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "tests.tasks.test_momentum", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    out = {(2, rank): torch.load(folder / f"{rank}.pt") for rank in range(2)}
    return {**out, (1, 0): one_rank(folder)}


@pytest.mark.parametrize("case", ["tdl", "rspnet", "tdl with batch norm"])
def test_the_same_training(results, case):
    expected = results[1, 0][case]
    assert int(expected["queue.position"]) == 39 % 16
    for rank in range(2):
        for key, value in results[2, rank][case].items():
            torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=2e-6, msg=f"{key} of rank {rank}")


def test_shuffled_keys_come_back_to_their_rows(results):
    alone = results[1, 0]["keys, no batch norm"]
    assert torch.equal(torch.cat([results[2, rank]["keys, no batch norm"] for rank in range(2)]), alone)


def test_shuffled_batch_norm_sees_the_other_order(results):
    together = torch.cat([results[2, rank]["keys, batch norm"] for rank in range(2)])
    clips, order, encoder = shuffle_case()
    # rank 0 brings three clips and encodes the first three of the new order, rank 1 the other four
    places = sorted(range(7), key=lambda n: (order[n], n))
    expected = torch.empty_like(together)
    with torch.no_grad():
        for share in (places[:3], places[3:]):
            expected[share] = encoder(clips[share])
        unshuffled = torch.cat([encoder(clips[:3]), encoder(clips[3:])])
    assert torch.allclose(together, expected, atol=1e-6)
    assert (together - unshuffled).abs().max() > 0.01


def test_batch_norm_over_all_ranks_is_not_shuffled(results):
    """Of one process and of two in step, plain and synced: the same keys as one batch gives."""
    clips, _, encoder = shuffle_case()
    with torch.no_grad():
        expected = encoder(clips)
    assert torch.allclose(results[1, 0]["keys, batch norm"], expected, atol=1e-6)
    synced = torch.cat([results[2, rank]["keys, synced batch norm"] for rank in range(2)])
    assert torch.allclose(synced, expected, atol=1e-5)


def shuffle_case():
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(7, 3, 2, 4, 4, generator=generator)
    order = torch.tensor([0.5, 0.9, 0.5, 0.1, 0.8, 0.3, 0.2], dtype=torch.float64)  # two are equal
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv3d(3, 5, (2, 4, 4)), nn.BatchNorm3d(5), nn.Tanh(), nn.Flatten())
    return clips, order, encoder


def train(name: str, accelerator: Accelerator, folder: Path, batch_norm: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    backbone = ToyBackbone()
    if not batch_norm:
        backbone.norm = nn.Identity()
    task = create_task(name, backbone, ClipSpec(4, 16), queue=16, momentum=0.9)
    engine = EngineSpec(precision="fp32", compile="off", layout="contiguous", log_every=2)
    run = RunDirectory(folder / f"{name}-{batch_norm}-{accelerator.num_processes}", accelerator.is_main_process)
    context = Context(accelerator, engine, run, "request", 0, Reporter(quiet=True))
    stage = StageSpec(epochs=3, batch=5, lr=0.05)
    Trainer("pretrain", task, stage, ToyDecoder(toy_store()), np.arange(13), context).fit()
    return task.state_dict()


def one_rank(folder: Path) -> dict[str, Any]:
    accelerator = Accelerator(cpu=True)
    world, rank = accelerator.num_processes, accelerator.process_index
    out: dict[str, Any] = {name: train(name, accelerator, folder, batch_norm=False) for name in TASKS}
    out["tdl with batch norm"] = train("tdl", accelerator, folder, batch_norm=True)
    clips, order, encoder = shuffle_case()
    mine = slice(0, 7) if world == 1 else (slice(0, 3), slice(3, 7))[rank]
    out["keys, batch norm"] = encode_keys(encoder, clips[mine], order[mine])
    synced = deepcopy(encoder)
    synchronise(synced, clips.device)
    out["keys, synced batch norm"] = encode_keys(synced, clips[mine], order[mine])
    encoder[1] = nn.Identity()
    if world > 1:
        momentum._has_own_statistics = lambda _: True  # the way there and back, without what needs it
    out["keys, no batch norm"] = encode_keys(encoder, clips[mine], order[mine])
    return out


def main() -> None:
    torch.set_num_threads(1)
    out = one_rank(Path(sys.argv[1]))
    torch.save(out, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
