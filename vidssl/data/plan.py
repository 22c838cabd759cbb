"""Which video, which frames, which random numbers: decided here, on the host, before anything is decoded.

Everything is a pure function of (seed, epoch, sample). A sample is a video's 64-bit key, so the same video draws the
same numbers in every subset, on every rank and after every restart. The position in a training is one integer, the
step: `plan.step(n)` answers for any n without having answered for those before it.

An epoch gives each video exactly once. Its N samples are spread over ceil(N / batch) steps whose sizes differ by at
most one, and each step over the ranks likewise: no sample is dropped, and no step is left with a handful of clips that
would upset batch norm. `drop_last=True` takes floor(N / batch) steps of exactly `batch` instead.

The generator is counter-based (the splitmix64 finaliser of Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014, chained over the counters), so a whole epoch is one vectorised numba loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np

from ..errors import ConfigError

_ORDER = np.uint64(0x5851F42D4C957F2D)  # a stream of its own for the order of the epoch


@numba.njit(inline="always")
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(nogil=True)
def _hash(seed, epoch, keys, stream):
    out = np.empty(len(keys), np.uint64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    base = _mix(_mix(np.uint64(seed) + golden) + np.uint64(epoch) * golden + golden)
    for n in range(len(keys)):
        out[n] = _mix(_mix(base ^ keys[n]) + stream)
    return out


@numba.njit(nogil=True)
def _uniforms(seed, epoch, keys, count):
    out = np.empty((len(keys), count), np.float64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    base = _mix(_mix(np.uint64(seed) + golden) + np.uint64(epoch) * golden + golden)
    for n in range(len(keys)):
        state = _mix(base ^ keys[n])
        for k in range(count):
            state = state + golden
            out[n, k] = np.float64(_mix(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return out


def uniforms(seed: int, epoch: int, keys: np.ndarray, count: int) -> np.ndarray:
    """float64 [N, count] in [0, 1): the random numbers of each sample in this epoch."""
    return _uniforms(seed, epoch, np.ascontiguousarray(keys, np.uint64), count)


def choose(u: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """int64 in [0, count), each as likely: floor(u * count)."""
    return np.minimum((u * count).astype(np.int64), np.asarray(count) - 1)


@dataclass(frozen=True)
class Step:
    """What one rank does in one step: `samples` are rows of the store, `size` counts the step over all ranks."""

    number: int
    epoch: int
    samples: np.ndarray
    size: int


@dataclass(frozen=True)
class Plan:
    """The order of a training.

    Args:
        samples: int64 [N], rows of the store that take part.
        keys: uint64 [N], their keys.
        batch: samples of a step over all ranks.
        epochs: how often each sample comes.
        shuffle: a fresh order each epoch; otherwise the given one.
        drop_last: see the head of this file.
    """

    samples: np.ndarray
    keys: np.ndarray
    batch: int
    epochs: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    rank: int = 0
    world: int = 1
    _order: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.samples) == 0:
            raise ConfigError("the plan has no sample: the subset or split is empty. Look at `vidssl list data`.")
        if self.drop_last and len(self.samples) < self.batch:
            raise ConfigError(
                f"batch {self.batch} is larger than the {len(self.samples)} samples; legal: 1 to that number."
            )
        if len(self.samples) < self.world:
            raise ConfigError(f"{len(self.samples)} samples cannot be shared by {self.world} ranks; use fewer ranks.")
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank {self.rank} is outside 0 to {self.world - 1}.")

    @property
    def steps_per_epoch(self) -> int:
        count = len(self.samples) // self.batch if self.drop_last else -(-len(self.samples) // self.batch)
        # every rank needs a sample in every step
        return max(1, min(count, len(self.samples) // self.world))

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def order(self, epoch: int) -> np.ndarray:
        """int64 [N], positions into `samples` in the order of this epoch."""
        if not self.shuffle:
            return np.arange(len(self.samples))
        return np.argsort(_hash(self.seed, epoch, self.keys, _ORDER), kind="stable")

    def step(self, number: int) -> Step:
        """The samples of this rank in step `number`, counted over the whole training."""
        epoch, within = divmod(number, self.steps_per_epoch)
        order = self._order_once(epoch)
        if self.drop_last:
            whole = order[within * self.batch : (within + 1) * self.batch]
        else:
            whole = order[_bounds(len(order), self.steps_per_epoch, within)]
        mine = whole[_bounds(len(whole), self.world, self.rank)]
        return Step(number, epoch, self.samples[mine], len(whole))

    def _order_once(self, epoch: int) -> np.ndarray:
        # sorting 100,000 keys takes 10 ms: once an epoch, not once a step
        if epoch not in self._order:
            self._order.clear()
            self._order[epoch] = self.order(epoch)
        return self._order[epoch]


def _bounds(count: int, parts: int, index: int) -> slice:
    """The index-th of `parts` contiguous pieces of `count` things, sizes differing by at most one."""
    return slice(count * index // parts, count * (index + 1) // parts)
