"""Whatever a report is to say is in its JSON, in the table, and on the page: a table of what it says, and where."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from shim.bundles import write_bundle

import preheat
from preheat.bundle.store import Store
from preheat.prepare import prepare
from preheat.shim import usage
from preheat.shim.reports.facts import facts
from preheat.shim.reports.html import page
from preheat.shim.reports.states import STATES, colours
from preheat.shim.reports.table import table
from preheat.shim.reports.tree import leaves, model_tree
from preheat.spec import parse
from preheat.stage import ModelModifier


class Grow(ModelModifier):
    """Adds a tensor that no checkpoint has."""

    async def process(self, context):
        context.model.register_parameter("late", torch.nn.Parameter(torch.ones(3)))
        context.metadata.setdefault("added_params", []).append("late")
        return context


def network():
    return torch.nn.ModuleDict({
        "stem": torch.nn.Linear(6, 4), "body": torch.nn.Linear(4, 4).double(), "norm": torch.nn.BatchNorm1d(4),
        "words": torch.nn.Embedding(9, 4), "head": torch.nn.Linear(4, 2), "new": torch.nn.Linear(4, 1),
    })  # fmt: skip


STAGES = [
    {"transferLearning": {"overlap": ["words.weight"]}},
    {"reset": {"layers": ["norm"]}},
    {"_target_": f"{__name__}.Grow"},
    {"freezing": {"layers": ["stem"]}},
]
WARNINGS = ("tensor 'stem.weight' holds NaN or infinity",)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tensors = {name: value for name, value in network().state_dict().items() if not name.startswith("new")}
    changed = {"head.weight": torch.ones(5, 4), "old": torch.ones(7), "words.weight": torch.ones(5, 4)}
    tensors |= {**changed, "body.weight": tensors["body.weight"].float()}
    bundle = write_bundle(folder / "bundle", tensors, STAGES, warnings=WARNINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREHEAT_BUNDLE", str(bundle))
        patch.setenv("PREHEAT_REPORT", str(folder / "report.json"))
        patch.delenv("RANK", raising=False)
        preheat.apply(network())
    return json.loads((folder / "report.json").read_text())


def shown(report):
    with open(os.devnull, "w") as nowhere:
        console = Console(width=200, record=True, file=nowhere)
        console.print(table(report))
    return console.export_text()


#: Tensor -> its state, the list of the JSON that names it, and what that says of it.
SAID = {
    "body.bias": ("loaded", "loaded", None),
    "body.weight": ("cast", "casts", "F32 -> F64"),
    "words.weight": ("resized", "resized", "5 rows copied"),
    "new.weight": ("initial", "leftInitial", "not in the checkpoint"),
    "norm.weight": ("reset", "loaded", None),
    "head.weight": ("skipped", "skipped", "shape [5, 4], model has [2, 4]"),
    "late": ("added", "added", None),
}


@pytest.mark.parametrize("name", SAID)
def test_every_tensor_is_named_in_the_json_in_the_table_and_on_the_page(report, name):
    state, key, says = SAID[name]
    assert name in report[key]
    if says:
        assert says in report[key][name]
    [leaf] = [each for each in leaves(model_tree(report)) if each.name == name]
    assert leaf.state == state
    if state != "loaded":
        assert re.search(rf"{re.escape(name)}\s+{state}\s", shown(report)), shown(report)
    row = page(report).partition(f'title="{name}"')[2].partition("</div>")[0]
    assert f"<b>{state}" in row


def test_frozen_tensors_and_those_left_in_the_checkpoint_are_named_everywhere(report):
    assert report["tensors"]["stem.weight"]["frozen"]
    assert report["skipped"]["old"] == "not in the model"
    assert re.search(r"stem\s.*all\s", shown(report))
    assert re.search(r"old\s+skipped\s+28 B\s+not in the model", shown(report))
    assert "<b>loaded, frozen</b>" in page(report)
    assert 'title="old"' in page(report)


def test_the_totals_count_every_kind(report):
    assert {key: value for key, value in report["totals"].items() if not key.startswith("bytes")} == {
        "loaded": 11, "skipped": 2, "leftInitial": 3, "cast": 1, "resized": 1, "added": 1, "frozen": 2, "partial": 0,
    }  # fmt: skip


def test_warnings_of_the_bundle_are_repeated(report):
    assert report["warnings"] == list(WARNINGS)
    assert "holds NaN or infinity" in shown(report)
    assert '<dt>warning</dt><dd class="alert">tensor &#x27;stem.weight&#x27; holds NaN or infinity</dd>' in page(report)


def test_warnings_are_in_the_line_for_a_person_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREHEAT_BUNDLE", str(write_bundle(tmp_path, {"weight": torch.ones(1, 1)}, warnings=WARNINGS)))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    preheat.apply(torch.nn.Linear(1, 1, bias=False))
    assert "; warning: tensor 'stem.weight' holds NaN or infinity" in capsys.readouterr().err


def test_time_by_phase_rate_and_memory_are_told(report):
    assert set(report["seconds"]) == {"open", "match", "load", "modify", "total"}
    assert report["seconds"]["total"] >= sum(v for phase, v in report["seconds"].items() if phase != "total")
    assert report["gigabytesPerSecond"] > 0
    assert set(report["memory"]) == {"resident", "peak", "raised"}
    assert report["memory"]["peak"] >= report["memory"]["resident"] > report["memory"]["raised"] >= 0
    told = dict(facts(report))
    assert re.fullmatch(r"open [\d.]+ s, match [\d.]+ s, load [\d.]+ s, modify [\d.]+ s, total [\d.]+ s", told["took"])
    assert re.fullmatch(r"[\d.]+ [MG]B resident at most, loading raised that by [\d.]+ k?M?B", told["memory"])
    for words in (told["memory"], told["took"], "B/s"):
        assert words in shown(report)
        assert words in page(report)


def test_memory_on_a_device_is_told_beside():
    given = {"peak": 3_000_000, "resident": 2_000_000, "raised": 0, "devicePeak": 5_000_000, "deviceRaised": 1_000_000}
    report = {"totals": {}, "seconds": {}, "source": {}, "strategy": "x", "modifiers": [], "notes": [], "memory": given}
    told = dict(facts(report))["memory"]
    assert told == (
        "3.0 MB resident at most, loading raised that by 0 B, "
        "5.0 MB on the device at most; loading raised that by 1.0 MB"
    )


#: A process of its own: of a large one the kernel may take back mapped pages meanwhile.
TAKES_64_MB = """
from preheat.shim import usage
before = usage.usage()
held = bytearray(b"x") * (before["peak"] - before["resident"] + 64_000_000)
print(usage.growth(before)["raised"], len(held))
"""


def test_a_peak_counts_from_where_the_load_began():
    told = subprocess.run([sys.executable, "-c", TAKES_64_MB], check=True, capture_output=True, text=True).stdout
    assert int(told.split()[0]) >= 60_000_000


def test_without_proc_the_peak_alone_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(usage, "_STATUS", tmp_path / "none")
    assert set(usage.usage()) == {"peak"}


def test_a_warm_start_says_what_it_restored(tmp_path, monkeypatch):
    def training():
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
        return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 5)

    model, optimizer, scheduler = training()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({**saved, "epoch": 4, "global_step": 17}, tmp_path / "run.ckpt")
    stages = [{"local": {"path": str(tmp_path / "run.ckpt")}}, {"warmStart": {}}]
    made = prepare(parse({"stages": stages}), Store(tmp_path / "volume"), "test")
    monkeypatch.setenv("PREHEAT_BUNDLE", str(made.folder))
    monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
    preheat.apply(*training())
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["resumed"] == {
        "epoch": 4, "global_step": 17, "notMade": {},
        "restored": ["AdamW (2 parameters by name)", "StepLR", "epoch 4", "global_step 17"],
    }  # fmt: skip
    assert "restored AdamW (2 parameters by name), StepLR, epoch 4" in dict(facts(report))["note"]


def test_every_state_has_a_colour_of_its_own_on_either_paper():
    assert len({state.light for state in STATES.values()}) == len({state.dark for state in STATES.values()})
    assert len({state.style for state in STATES.values()}) == len(STATES)
    for name, state in STATES.items():
        assert f"--{name}: {state.light};" in colours()
        assert f".{name} {{ background-color: var(--{name}); }}" in colours()
