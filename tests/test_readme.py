"""The README shows the numbers of the result files, and commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tables_are_those_of_the_results():
    done = subprocess.run(
        [sys.executable, "tools/readme_tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_and_option_shown_exists():
    from typer.main import get_command

    from vidssl.cli import app

    group = get_command(app)
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    commands = re.findall(r"(?:^|&& |; |-m )vidssl ([^#;\n]*)", "\n".join(blocks), flags=re.MULTILINE)
    assert len(commands) >= 6
    for line in commands:
        verb, *words = line.split()
        assert verb in group.commands, line
        known = {option for parameter in group.commands[verb].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
