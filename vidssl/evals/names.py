"""Names of the evaluations, apart from their code: `--help` and a mistyped name need no torch."""

from __future__ import annotations

from ..errors import unknown_name

EVALS = ("finetune", "linear", "retrieval", "robustness", "cka")
NEED_FINETUNE = ("robustness", "cka")
"""They look at the fine-tuned network, which is made first where it is not there."""


def parse_names(text: str) -> list[str]:
    """ "finetune,linear" -> names in the order they are run; "all" -> all; "none" -> []. Raises ConfigError on an
    unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["none"]:
        return []
    if names == ["all"]:
        return list(EVALS)
    for name in names:
        if name not in EVALS:
            raise unknown_name("evaluation", name, (*EVALS, "all", "none"))
    return [name for name in EVALS if name in names]
