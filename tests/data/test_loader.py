"""How a step is split into passes: every rank makes as many, none is empty, no sample is lost."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.toys import ToyDecoder, toy_store, toy_task
from vidssl.data.loader import ClipLoader
from vidssl.data.plan import Plan


@pytest.mark.parametrize("micro_batch", [0, 1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_rank_makes_as_many_passes(world, micro_batch):
    decoder, passes, seen = ToyDecoder(toy_store()), [], []
    for rank in range(world):
        plan = Plan(np.arange(13), decoder.store.keys, batch=5, epochs=1, rank=rank, world=world)
        batches = list(ClipLoader(plan, toy_task(), decoder, micro_batch=micro_batch))
        passes.append([batch.step for batch in batches])
        seen += [video for batch in batches for video in batch.samples]
        assert all(len(batch.samples) for batch in batches)
        if micro_batch > 1:
            assert max(len(batch.samples) for batch in batches) <= micro_batch
    assert passes == [passes[0]] * world
    assert sorted(seen) == list(range(13))
