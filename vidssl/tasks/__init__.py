"""Tasks by name. Add one: a file beside this one, and a line in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..options import Named, complete_options, dataclass_options
from ..registry import Registry

if TYPE_CHECKING:
    from ..backbones.base import Backbone
    from .base import ClipSpec, Task

TASKS = Registry(
    "task",
    "vidssl.tasks",
    {
        "cvrl": "vidssl.tasks.cvrl:CVRL",
        "prp": "vidssl.tasks.prp:PRP",
        "rotnet": "vidssl.tasks.rotnet:RotNet",
        "rspnet": "vidssl.tasks.rspnet:RSPNet",
        "tdl": "vidssl.tasks.tdl:TDL",
        "vcop": "vidssl.tasks.vcop:VCOP",
        "vmae": "vidssl.tasks.vmae:VMAE",
    },
)


def list_tasks() -> list[str]:
    return TASKS.names()


def create_task(name: str, backbone: Backbone, clip: ClipSpec | None = None, **options: Any) -> Task:
    """Builds a task around a backbone. Options are the fields of its `Args`.

    Raises ConfigError on a name or an option that is not there, with the nearest that is, and on an illegal value.
    """
    from .base import ClipSpec

    task = TASKS.get(name)
    options = complete_options(Named(name, options), dataclass_options(task.Args), "task").options
    return task(backbone, clip or ClipSpec(), task.Args(**options))
