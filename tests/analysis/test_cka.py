"""CKA against the formula of the papers written out, its invariances, and maps of small networks."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from vidssl import create_backbone
from vidssl.analysis import cka
from vidssl.analysis.cka import MinibatchCKA, compare
from vidssl.errors import ConfigError, RunError


def hsic1(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012 equation 5, term by term."""
    n = len(k)
    trace = ones_k = ones_m = crossed = 0.0
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            trace += k[i, j] * m[j, i]
            ones_k += k[i, j]
            ones_m += m[i, j]
            crossed += sum(k[i, j] * m[j, q] for q in range(n) if q != j)
    return (trace + ones_k * ones_m / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed) / (n * (n - 3))


def plain_cka(batches: list[tuple[torch.Tensor, torch.Tensor]], centre: bool = False) -> float:
    """Centring changes nothing but the rounding of the formula."""
    cross = self_x = self_y = 0.0
    for pair in batches:
        x, y = (f.double().flatten(1) - f.double().flatten(1).mean(0) * centre for f in pair)
        k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
        cross, self_x, self_y = cross + hsic1(k, m), self_x + hsic1(k, k), self_y + hsic1(m, m)
    return cross / math.sqrt(self_x * self_y)


def related(n: int, seed: int, dtype=torch.float32) -> list[torch.Tensor]:
    """Layers of different shapes that share a part; the last is far from zero, as after a ReLU."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 6, generator=g, dtype=torch.float64)
    parts = [shared @ torch.randn(6, d, generator=g, dtype=torch.float64) for d in (5, 60, 9000)]
    noisy = [part + torch.randn(part.shape, generator=g, dtype=torch.float64) for part in parts]
    shapes = [(5,), (3, 4, 5), (10, 4, 15, 15)]
    layers = [part.reshape(n, *shape).to(dtype) for part, shape in zip(noisy, shapes, strict=True)]
    layers[2] = layers[2] + 30
    return layers


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_equals_the_formula_written_out(dtype, tolerance):
    batches = [related(n, seed, dtype) for n, seed in ((7, 0), (7, 1), (5, 2))]
    ours = MinibatchCKA(2, 3)
    for layers in batches:
        ours.update(layers[:2], layers)
    values = ours.compute()
    assert values.dtype == torch.float64
    assert values.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            expected = plain_cka([(layers[i], layers[j]) for layers in batches])
            assert float(values[i, j]) == pytest.approx(expected, abs=tolerance)
    assert 0.2 < float(values[0, 2]) < 0.98


def test_a_layer_is_like_itself_rotated_scaled_and_moved():
    ours = MinibatchCKA(3, 3)
    rotation = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(9)))[0]
    for seed in range(3):
        layers = related(16, seed)
        turned = [layers[0] * 40, layers[1].flatten(1) @ rotation, layers[2] - 12]
        ours.update(layers, turned)
    straight = MinibatchCKA(3, 3)
    for seed in range(3):
        layers = related(16, seed)
        straight.update(layers, layers)
    torch.testing.assert_close(ours.compute(), straight.compute(), rtol=0, atol=1e-6)
    torch.testing.assert_close(straight.compute().diagonal(), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "batches"), [(4, 1500), (8, 600), (64, 60)])
def test_independent_features_are_near_zero_whatever_the_batch(n, batches):
    g = torch.Generator().manual_seed(n)
    ours, biased = MinibatchCKA(1, 1), []
    for number in range(batches):
        x, y = torch.randn(n, 40, generator=g), torch.randn(n, 20, generator=g) + 3
        ours.update([x], [y])
        if number < 20:
            a, b = ((f - f.mean(0)) @ (f - f.mean(0)).T for f in (x, y))
            biased.append(float((a * b).sum() / (a.norm() * b.norm())))
    assert abs(float(ours.compute())) < 0.04
    assert np.mean(biased) > 0.25  # what the usual estimator says of the same features


def test_small_differences_beside_a_large_common_part_are_kept():
    """Clips that differ by a ten-thousandth: of raw features the formula finds only rounding, even in float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5000, generator=g) * 1e-4 + torch.randn(5000, generator=g)
    y = (x[:, :2500].double() ** 2).float()
    ours = MinibatchCKA(1, 1)
    ours.update([x], [y])
    assert float(ours.compute()) == pytest.approx(plain_cka([(x, y)], centre=True), abs=5e-6)


def test_the_layout_in_memory_and_the_size_of_the_pieces_change_nothing(monkeypatch):
    x = torch.randn(6, 8, 4, 20, 30, generator=torch.Generator().manual_seed(0))
    values = [cka.gram(x), cka.gram(x.to(memory_format=torch.channels_last_3d))]
    monkeypatch.setitem(cka.ELEMENTS, "cpu", cka.ELEMENTS["cuda"])
    values.append(cka.gram(x))
    moved = (x - x[:1]).double().flatten(1)
    for value in values:
        torch.testing.assert_close(value, moved @ moved.T, rtol=1e-6, atol=1e-3)


def test_two_halves_merge_to_the_whole():
    whole, halves = MinibatchCKA(3, 3), [MinibatchCKA(3, 3), MinibatchCKA(3, 3)]
    for seed in range(4):
        layers = related(8, seed)
        whole.update(layers, layers)
        halves[seed % 2].update(layers, layers)
    halves[0].merge(halves[1])
    assert halves[0].batches == 4
    torch.testing.assert_close(halves[0].compute(), whole.compute(), rtol=0, atol=1e-14)


def test_bad_features_say_what_is_wrong():
    with pytest.raises(ConfigError, match=r"3 clips is too small.*4 or more"):
        MinibatchCKA(1, 1).update([torch.randn(3, 5)], [torch.randn(3, 5)])
    with pytest.raises(ConfigError, match=r"same clips.*\[5, 6\]"):
        MinibatchCKA(1, 1).update([torch.randn(5, 5)], [torch.randn(6, 5)])
    with pytest.raises(ConfigError, match=r"1 and 2 layers.*\[1, 1\]"):
        MinibatchCKA(1, 1).update([torch.randn(5, 5)], [torch.randn(5, 5)] * 2)
    with pytest.raises(ConfigError, match="no minibatches"):
        MinibatchCKA(1, 1).compute()


def clips(count: int, batch: int, seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, 3, 16, 32, 32, generator=g) for _ in range(count)]


class Counted(nn.Module):
    def __init__(self, width: int, value: float = 1.0) -> None:
        super().__init__()
        self.first, self.dead, self.last = nn.Linear(24, width), nn.Linear(width, 4), nn.Linear(width, 7)
        self.taps = ("first", "dead", "last")
        nn.init.zeros_(self.dead.weight)
        nn.init.constant_(self.last.bias, value)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.first(x.flatten(1)).relu()
        self.dead(x)
        return self.last(x)


def small(count: int, batch: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return [torch.rand(batch, 3, 2, 2, 2, generator=g) for _ in range(count)]


def test_a_map_of_one_network_runs_it_once_and_counts_what_it_drops():
    network = Counted(5)
    found = compare(network, network, [*small(3, 8), *small(1, 7)])
    assert network.calls == 3
    assert (found.batches, found.videos, found.dropped, found.itself) == (3, 24, 7, True)
    assert found.names_x == found.names_y == ["first", "dead", "last"]
    assert found.values_LL[[0, 2], [0, 2]] == pytest.approx([1, 1], abs=1e-12)
    # the same output for every clip: not alike and not unlike
    assert found.undefined == ["dead"]
    assert np.isnan(found.values_LL[1]).all()
    assert np.isnan(found.values_LL[:, 1]).all()


def test_teacher_and_student_of_different_widths():
    teacher, student = Counted(50).train(), Counted(5)
    student.dead.eval()
    batches = small(4, 8)
    found = compare(teacher, student, batches, "blocks", ["last", "first"])
    assert found.values_LL.shape == (3, 2)
    assert found.names_y == ["first", "last"]
    assert (teacher.calls, student.calls, found.itself) == (4, 4, False)
    with torch.no_grad():
        pairs = [(teacher.first(x.flatten(1)), student.last(student.first(x.flatten(1)).relu())) for x in batches]
    assert found.values_LL[0, 1] == pytest.approx(plain_cka(pairs), abs=1e-6)
    assert teacher.training
    assert student.training
    assert not student.dead.training


def test_two_checkpoints_of_a_backbone():
    torch.manual_seed(0)
    one = create_backbone("shufflenet", width=0.5)
    other = create_backbone("shufflenet", width=0.5)
    other.load_state_dict(one.state_dict())
    before = {key: value.clone() for key, value in one.state_dict().items()}
    same = compare(one, other, clips(2, 6))
    assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())  # in eval mode
    assert same.names_x == list(one.taps)
    assert same.values_LL.diagonal() == pytest.approx(np.ones(len(one.taps)), abs=1e-6)
    assert same.blocks() is None
    with torch.no_grad():
        for parameter in other.layer3.parameters():
            parameter.normal_()
    changed = compare(one, other, clips(2, 6)).values_LL.diagonal()
    kept = [name.startswith("layer3") for name in one.taps].index(True)
    assert changed[:kept] == pytest.approx(np.ones(kept), abs=1e-6)
    assert (changed[kept:] < 0.999).all()


def test_batches_that_cannot_be_compared():
    network = Counted(5)
    with pytest.raises(ConfigError, match="all 6 clips came in smaller"):
        compare(network, network, small(2, 3))
    with pytest.raises(ConfigError, match="all 0 clips"):
        compare(network, network, [])
    with pytest.raises(RunError, match="outputs of first, dead, last are NaN"):
        compare(network, network, [torch.full((4, 3, 2, 2, 2), torch.nan)])
    diverged = Counted(5, value=math.inf)
    for pair in ((diverged, network), (network, diverged)):
        with pytest.raises(RunError, match="outputs of last are NaN or infinite"):
            compare(*pair, small(1, 4))


def test_ranks_are_summed_and_a_rank_with_only_a_short_batch_is_dropped(monkeypatch):
    """Three ranks: two batches, one batch, one short batch. On one process, through `gather_object`'s place."""
    network, batches = Counted(5), small(3, 8)
    shares = [[batches[0], batches[1]], [batches[2]], small(1, 5)]
    gathered: list = [None] * 3
    results: list = [None] * 3
    meet = threading.Barrier(3)
    local = threading.local()

    def gather(mine):
        gathered[local.rank] = mine[0]
        meet.wait(20)
        return list(gathered)

    monkeypatch.setattr(cka, "gather_object", gather)

    def work(rank: int) -> None:
        local.rank = rank
        own = Counted(5)
        own.load_state_dict(network.state_dict())
        results[rank] = compare(own, own, shares[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    whole = compare(network, network, batches)
    for found in results:
        assert (found.batches, found.videos, found.dropped) == (3, 24, 5)
        np.testing.assert_allclose(found.values_LL, whole.values_LL, rtol=0, atol=1e-14)
