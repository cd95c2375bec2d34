"""A report from a real run: what became of every tensor, as a table and as a page that needs nothing else."""

import json
import os
import re
from html.parser import HTMLParser

import pytest
import torch
from rich.console import Console
from shim.bundles import write_bundle
from typer.testing import CliRunner

import preheat
from preheat.cli import app
from preheat.errors import CheckpointConfigError
from preheat.shim.reports.facts import facts, read
from preheat.shim.reports.html import page
from preheat.shim.reports.table import table
from preheat.shim.reports.tree import join_chains, leaves, model_tree, skipped_tree

STAGES = [
    {"transferLearning": {}},
    {"reset": {"layers": ["net.decoder.1"]}},
    {"freezing": {"layers": ["net.encoder"]}},
]
VOID = {"meta", "input"}


class Page(HTMLParser):
    """Refuses tags that are not closed in order; collects names, rows and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.attributes, self.tags = [], [], [], set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        given = dict(attrs)
        if "leaf" in given.get("class", "").split():
            self.rows.append(given["title"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def network(classes):
    return torch.nn.ModuleDict({"net": torch.nn.ModuleDict({
        "encoder": torch.nn.Linear(8, 16),
        "decoder": torch.nn.Sequential(torch.nn.Linear(16, 8, dtype=torch.float64), torch.nn.BatchNorm1d(8)),
        "head": torch.nn.Linear(8, classes),
        "new": torch.nn.Linear(8, 2, bias=False),
    })})  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tensors = dict(network(3).state_dict()) | {"old.<script>alert(1)</script>": torch.ones(5)}
    del tensors["net.new.weight"]
    tensors["net.decoder.0.weight"] = tensors["net.decoder.0.weight"].float()
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
            patch.delenv(variable, raising=False)
        patch.setenv("PREHEAT_BUNDLE", str(write_bundle(folder / "bundle", tensors, STAGES)))
        patch.setenv("PREHEAT_REPORT", str(folder / "report.json"))
        preheat.apply(network(5))
    return folder / "report.json"


@pytest.fixture
def report(path):
    return read(path)


def test_every_tensor_has_one_state_and_the_reason_for_it(report):
    states = {leaf.name: (leaf.state, leaf.reason, leaf.frozen) for leaf in leaves(model_tree(report))}
    assert list(states) == list(network(5).state_dict())
    assert states["net.encoder.weight"] == ("loaded", "", True)
    assert states["net.decoder.0.weight"] == ("cast", "F32 -> F64", False)
    assert states["net.decoder.0.bias"] == ("loaded", "", False)
    assert states["net.decoder.1.running_mean"] == ("reset", "reset after loading", False)
    assert states["net.head.weight"] == ("skipped", "shape [3, 8], model has [5, 8]", False)
    assert states["net.new.weight"] == ("initial", "not in the checkpoint", False)


def test_modules_sum_up_what_is_in_them(report):
    tree = model_tree(report)
    state = network(5).state_dict()
    assert tree.tensors == len(state)
    assert tree.size == sum(tensor.nbytes for tensor in state.values())
    assert tree.elements == sum(tensor.numel() for tensor in state.values())
    encoder = tree.children["net"].children["encoder"]
    assert (encoder.size, encoder.frozen, dict(encoder.states)) == (576, 576, {"loaded": 576})


def test_what_stayed_in_the_checkpoint_has_its_size(report):
    found = {leaf.name: (leaf.shape, leaf.size, leaf.reason) for leaf in leaves(skipped_tree(report))}
    assert found["old.<script>alert(1)</script>"] == ((5,), 20, "not in the model")
    assert found["net.head.weight"] == ((3, 8), 96, "shape [3, 8], model has [5, 8]")


def test_modules_that_hold_one_module_are_joined(report):
    joined = join_chains(skipped_tree(report))
    assert list(joined.children) == ["old", "net"] or list(joined.children) == ["net", "old"]
    assert joined.children["net"].name == "net.head"


def printed(report, width):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(report))
    console.file.close()
    return console.export_text()


def test_no_name_is_cut_and_what_came_in_the_same_way_is_one_row(report):
    casts = {name: "F32 -> F64" for name in report["tensors"] if name.startswith("net.decoder")}
    many = {**report, "modifiers": [], "casts": casts}
    said = printed(many, 80)
    assert "…" not in said
    assert "net.decoder.0.weight and 6 more" in " ".join(printed(many, 160).split())
    assert said.index("net.head.weight") < said.index("net.decoder.0.weight")


def test_the_table_names_states_and_reasons(report):
    said = printed(report, 160)
    for words in ("transfer_learning", "s3://models/pretrained.ckpt", "encoder", "frozen 2 tensors (net.encoder)",
                  "net.head.weight", "shape [3, 8], model has [5, 8]", "old.<script>alert(1)</script>"):  # fmt: skip
        assert words in said


def test_the_page_needs_nothing_else_and_runs_nothing_of_the_report(report):
    text = page(report)
    found = Page(text)
    assert found.tags.isdisjoint({"link", "img", "iframe", "object"})
    assert not [name for name, _ in found.attributes if name in ("src", "href") or name.startswith("on")]
    assert "url(" not in text
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert text.count("<script>") == 1


def test_every_tensor_has_its_row_on_the_page(report):
    named = [leaf.name for tree in (model_tree(report), skipped_tree(report)) for leaf in leaves(join_chains(tree))]
    assert Page(page(report)).rows == named


def test_sizes_on_the_map_are_to_scale(report):
    parts = re.findall(r'<div class="part ([\w ]+)" style="left:([\d.]+)%;width:([\d.]+)%', page(report))
    tree = model_tree(report)
    assert sum(float(width) for *_, width in parts) == pytest.approx(100, abs=0.01)
    assert [kind for kind, *_ in parts] == ["loaded frozen", "cast", "loaded", "reset", "skipped", "initial"]
    assert float(parts[0][2]) == pytest.approx(100 * tree.frozen / tree.size, abs=0.01)


def test_a_run_whose_own_stage_loaded_has_a_page_too(report):
    bare = report | {"loaded": [], "leftInitial": {}, "casts": {}, "skipped": {}, "strategy": "custom", "modifiers": []}
    bare["totals"] = dict.fromkeys(report["totals"], 0)
    states = {leaf.state for leaf in leaves(model_tree(bare))}
    assert states == {"loaded"}
    Page(page(bare))
    Page(page(bare | {"tensors": {}}))


def test_the_file_has_the_size_of_every_tensor(path):
    tensors = json.loads(path.read_text())["tensors"]
    assert tensors["net.encoder.weight"] == {
        "dtype": "F32", "shape": [16, 8], "elements": 128, "bytes": 512, "frozen": True,
    }  # fmt: skip
    assert "frozen" not in tensors["net.head.weight"]


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read: No such file"), ("{", "is not JSON"), ("[]", "is not a report"),
     ('{"loaded": []}', "is not a report")],
)  # fmt: skip
def test_what_is_no_report_is_refused(tmp_path, text, words):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CheckpointConfigError, match=words):
        read(path)


def test_the_verb_prints_the_table_the_json_or_writes_the_page(path, report, tmp_path):
    run = CliRunner()
    shown = run.invoke(app, ["report", str(path)])
    assert shown.exit_code == 0
    assert "net.head.weight" in shown.output
    assert json.loads(run.invoke(app, ["report", str(path), "--json"]).output) == report
    written = run.invoke(app, ["report", str(path), "--html", str(tmp_path / "page.html")])
    assert written.output.strip() == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page(report)


def test_without_a_file_the_verb_reads_what_this_environments_process_wrote(path, monkeypatch):
    monkeypatch.setenv("PREHEAT_REPORT", str(path))
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)
    assert "net.head.weight" in CliRunner().invoke(app, ["report"]).output


def test_a_page_that_cannot_be_written_is_a_failure_with_a_reason(path, tmp_path):
    refused = CliRunner().invoke(app, ["report", str(path), "--html", str(tmp_path / "no" / "page.html")])
    assert refused.exit_code == 50
    assert "StorageFailed" in refused.output
    assert "No such file" in refused.output


def test_the_report_of_a_rank_says_what_it_is_part_of(report):
    given = {**report, "rank": 1, "ranks": 4, "totals": {**report["totals"], "partial": 7}}
    assert ("rank", "1 of 4, which agree; it holds parts of 7 tensors") in facts(given)
    assert "rank" not in dict(facts(report))
