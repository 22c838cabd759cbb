"""Numbers in lists, on the terminal and in the README, from results that lack some."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from tests.finished import make_run, small_net, write_summary  # noqa: F401
from vidssl.report.listing import run_rows
from vidssl.report.table import run_table

TOOL = Path(__file__).parents[2] / "tools" / "readme_tables.py"


def test_a_folder_without_a_pre_training_is_listed(tmp_path, monkeypatch, small_net):  # noqa: F811
    monkeypatch.setenv("VIDSSL_HOME", str(tmp_path))
    spec = make_run(tmp_path / "runs" / "public")
    write_summary(tmp_path / "runs" / "public", spec, None, {"linear": {"top1": 0.5}})
    assert run_rows() == [{"run": "public", "state": "finished", "linear": 0.5}]


def test_the_mean_cka_of_a_network_with_itself_is_of_different_layers(tmp_path, small_net):  # noqa: F811
    """Layers alike by 0.2, so that with the diagonal of ones the mean of two would be 0.6."""
    spec = make_run(tmp_path / "run")
    block = {"share": 0.0, "mean": 0.2}
    maps = {"a / a": {"layers": [2, 2], "mean": 0.6, "block": block}, "a / b": {"layers": [2, 2], "mean": 0.7}}
    maps["a / b"]["block"] = None
    cka = {"maps": maps, "seconds": 1.0}
    summary = {"spec": json.loads((tmp_path / "run" / "summary.json").read_text())["spec"], "evals": {"cka": cka}}
    table = run_table({**summary, "pretrain": None, "weights": {"path": "x.pt"}})
    assert spec.task.name == "rotnet"
    assert list(table.columns[2].cells) == ["20.0", "70.0"]


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tools/readme_tables.py over a copy of the results."""
    found = importlib.util.spec_from_file_location("readme_tables", TOOL)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    shutil.copytree(module.RESULTS, tmp_path / "results")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def change(tool, pattern, edit):
    file = sorted(tool.RESULTS.glob(pattern))[-1]
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_what_one_data_set_lacks_leaves_its_cell_empty(tool):
    def edit(content):
        del content["evals"]["linear"]
        content["evals"]["robustness"]["relative_drop"]["1"] = None
        content["spec"]["data"]["size"], content["spec"]["seed"] = 112, 5

    second = [cells[-2].strip() for line in tool.evals().splitlines() if len(cells := line.split("|")) == 5]
    change(tool, "evals_embedded_cpu_*.json", edit)
    lines = tool.evals().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {3}
    shown = {row[0]: row[1:] for row in rows}
    assert shown["linear probe"][0] == ""
    assert "lost" not in shown["mean of 4 noises, severity 1"][0]
    assert sorted(row[2] for row in rows) == sorted(second)
    assert "shufflenet at 112 px, seed 5 and shufflenet at 64 px, seed 0" in lines[-1]


def test_the_cost_of_cka_stands_there_by_the_clock_and_in_cpu_time(tool):
    def edit(content):
        (ours,) = (row for row in content["rows"] if row["name"] == "ours")
        ours["cpu_ratio"], ours["cpu_times_forward"] = {"p25": 0.25, "median": 0.4, "p75": 0.5}, 2.5

    change(tool, "cka_cpu_*.json", edit)
    assert "2.50 (2.00 to 4.00) in CPU time" in tool.analysis()
