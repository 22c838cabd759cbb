"""`vidssl preview`: from the command line's words to a picture."""

from __future__ import annotations

from pathlib import Path

from ..options import complete_options, dataclass_options
from ..spec import RunSpec, override, parse_override


def preview_verb(task_name: str, data: str, out: Path, samples: int, seed: int, sets: list[str]) -> None:
    """Draws what the network sees. Raises VidsslError; a mistake in a name is found before anything is prepared."""
    import torch

    from .. import presets
    from ..data import catalog
    from ..data.decode import open_decoder
    from ..engine.progress import Reporter
    from ..resolve import check_augmentation, choose_preset
    from ..tasks import TASKS, create_task
    from ..tasks.base import ClipSpec
    from .preview import draw_preview

    request = {"task.name": task_name, **dict(parse_override(text) for text in sets)}
    spec = override(RunSpec(), request)
    args = TASKS.get(spec.task.name).Args
    complete_options(spec.task, dataclass_options(args), "task")
    reporter = Reporter()
    store = catalog.open_data(data, reporter)
    preset, notes = choose_preset(spec.preset, data, torch.cuda.is_available())
    if preset == "small":  # as a run would
        rows = catalog.training_rows(store, "all")
        spec = override(RunSpec(), {**presets.small_preset(spec.task.name, len(rows), 1, request), **request})
    for note in notes:
        reporter.say(note)
    completed = complete_options(spec.task, dataclass_options(args), "task")
    options = check_augmentation(completed, args, request).options
    # the views need the shape of a clip and no weights, so any small backbone serves
    task = create_task(spec.task.name, _smallest_backbone(), ClipSpec(spec.data.frames, spec.data.size), **options)
    decoder = open_decoder("pyav", store)
    reporter.say(f"wrote {draw_preview(task, store, decoder, out, seed, samples)}")


def _smallest_backbone():
    from ..backbones import create_backbone

    return create_backbone("shufflenet", width=0.5)
