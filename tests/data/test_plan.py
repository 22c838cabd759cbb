"""The plan: a pure function of (seed, epoch, sample), each sample once an epoch over all ranks."""

from __future__ import annotations

import numpy as np
import pytest

from vidssl.data.plan import Plan, choose, uniforms
from vidssl.data.store import video_key
from vidssl.errors import ConfigError

KEYS = np.array([video_key(f"v{i}") for i in range(1000)], np.uint64)


def splitmix_reference(seed: int, epoch: int, key: int, count: int) -> list[float]:
    """The same generator in plain Python integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    base = mix((mix((seed + golden) & mask) + epoch * golden + golden) & mask)
    state, out = mix(base ^ key), []
    for _ in range(count):
        state = (state + golden) & mask
        out.append((mix(state) >> 11) / 2**53)
    return out


def test_uniforms_equal_an_independent_computation():
    numbers = uniforms(7, 3, KEYS[:5], 4)
    for row, key in zip(numbers, KEYS[:5].tolist(), strict=True):
        assert row.tolist() == splitmix_reference(7, 3, key, 4)


def test_uniforms_do_not_depend_on_who_else_is_asked():
    whole = uniforms(0, 2, KEYS, 3)
    np.testing.assert_array_equal(uniforms(0, 2, KEYS[[17, 4]], 3), whole[[17, 4]])
    assert not np.array_equal(uniforms(0, 3, KEYS, 3), whole)
    assert not np.array_equal(uniforms(1, 2, KEYS, 3), whole)


def test_uniforms_are_uniform_and_uncorrelated():
    numbers = uniforms(0, 0, np.arange(20000, dtype=np.uint64), 4)
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    expected = numbers.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
    off_diagonal = np.corrcoef(numbers.T)[~np.eye(4, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.03


def test_choose_covers_its_range_and_stays_inside():
    u = np.array([0.0, 0.24, 0.25, 0.5, 0.75, np.nextafter(1.0, 0.0)])
    assert choose(u, 4).tolist() == [0, 0, 1, 2, 3, 3]
    assert choose(u[-1:], 2**52).max() < 2**52


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("videos", "batch"), [(100, 8), (101, 8), (7, 16), (9, 4)])
def test_each_sample_exactly_once_an_epoch_over_all_ranks(world, videos, batch):
    samples = np.arange(videos) * 3
    plans = [Plan(samples, KEYS[:videos], batch, 3, seed=5, rank=rank, world=world) for rank in range(world)]
    assert len({plan.num_steps for plan in plans}) == 1
    for epoch in range(3):
        seen = []
        for within in range(plans[0].steps_per_epoch):
            steps = [plan.step(epoch * plans[0].steps_per_epoch + within) for plan in plans]
            assert all(len(step.samples) >= 1 for step in steps)
            assert sum(len(step.samples) for step in steps) == steps[0].size <= max(batch, world * 2)
            seen += [sample for step in steps for sample in step.samples.tolist()]
        assert sorted(seen) == samples.tolist()


def test_sizes_of_steps_differ_by_at_most_one():
    plan = Plan(np.arange(190), KEYS[:190], 16, 1)
    sizes = [len(plan.step(n).samples) for n in range(plan.num_steps)]
    assert sum(sizes) == 190
    assert set(sizes) <= {15, 16}


def test_any_step_can_be_asked_first():
    def fresh() -> Plan:
        return Plan(np.arange(50), KEYS[:50], 8, 4, seed=1)

    forward = [fresh_plan.step(n).samples.tolist() for fresh_plan in [fresh()] for n in range(fresh_plan.num_steps)]
    for number in (17, 3, 27, 0):
        assert fresh().step(number).samples.tolist() == forward[number]


def test_order_changes_with_epoch_and_seed_and_not_with_the_subset():
    plan = Plan(np.arange(100), KEYS[:100], 8, 2, seed=0)
    assert plan.order(0).tolist() != plan.order(1).tolist()
    assert plan.order(0).tolist() != Plan(np.arange(100), KEYS[:100], 8, 2, seed=1).order(0).tolist()
    half = Plan(np.arange(50), KEYS[:50], 8, 2, seed=0)
    assert [i for i in plan.order(0).tolist() if i < 50] == half.order(0).tolist()


def test_drop_last_gives_whole_batches_only():
    plan = Plan(np.arange(50), KEYS[:50], 8, 2, drop_last=True)
    assert [len(plan.step(n).samples) for n in range(plan.num_steps)] == [8] * 12


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="no sample"):
        Plan(np.arange(0), KEYS[:0], 8, 1)
    with pytest.raises(ConfigError, match="ranks"):
        Plan(np.arange(2), KEYS[:2], 8, 1, world=3)
