"""`onFailure: Continue` in a training process: what it passes over, how loud, and what it never does."""

import ast
import json

import pytest
import torch
from shim.bundles import WEIGHTS_ONLY, write_bundle
from shim.pod import Pod, lay_out_shim, warm_python
from shim.test_training_process import LIGHTNING, PLAIN, SAVE
from typer.testing import CliRunner

import preheat
from preheat.bundle.absence import Absence
from preheat.cli import app
from preheat.context import CheckpointContext
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointNotFoundError,
    CheckpointValidationError,
    NotABundleError,
    NothingMatchedError,
    NoWeightsError,
    UnsupportedVersionError,
)
from preheat.shim import first_step, guard, hooks
from preheat.shim.apply import apply_to
from preheat.stage import PipelineStage

GONE = CheckpointNotFoundError("s3://models/gone.ckpt does not exist", remedy="Correct the key")
LOUD = "NO CHECKPOINT, the training goes on from its initial weights: "


def model():
    torch.manual_seed(3)
    return torch.nn.ModuleDict({"encoder": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 1)})


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture
def going_on(tmp_path, monkeypatch):
    """Sets the bundle of this process, whose pipeline says Continue."""

    def given(bundle, policy="Continue"):
        monkeypatch.setenv("PREHEAT_BUNDLE", str(bundle))
        monkeypatch.setenv("PREHEAT_ON_FAILURE", policy)
        monkeypatch.setenv("PREHEAT_REPORT", str(tmp_path / "report.json"))
        return bundle

    return given


@pytest.fixture
def absent(tmp_path):
    Absence("finetune", GONE).write(tmp_path / "absent")
    return tmp_path / "absent"


@pytest.fixture
def report(tmp_path):
    return lambda: json.loads((tmp_path / "report.json").read_text())


def other(tmp_path, name="bundle", **tensors):
    return write_bundle(tmp_path / name, tensors or {"net.weight": torch.ones(2)})


def test_a_model_without_a_checkpoint_keeps_its_initial_weights_and_the_report_says_why(
    going_on, absent, report, capsys
):
    going_on(absent)
    trained = model()
    before = values(trained)
    said = preheat.apply(trained)
    assert (said.strategy, said.pipeline, said.loaded) == ("none", "finetune", ())
    assert same(trained, before)
    assert preheat.apply(trained) is said
    err = capsys.readouterr().err
    assert f"Preheat: {LOUD}NotFound: s3://models/gone.ckpt does not exist. Correct the key" in err
    [line] = [line for line in err.splitlines() if line.startswith("preheat.report ")]
    brief, full = json.loads(line.partition(" ")[2]), report()
    failure = {"reason": "NotFound", "message": "s3://models/gone.ckpt does not exist", "remedy": "Correct the key"}
    assert brief["failure"] == full["failure"] == failure
    assert full["strategy"] == "none"
    assert set(full["leftInitial"]) == set(before)
    assert full["totals"]["leftInitial"] == 4


def test_the_table_and_the_page_begin_with_the_failure(going_on, absent, report):
    from rich.console import Console

    from preheat.shim.reports.html import page
    from preheat.shim.reports.table import table

    going_on(absent)
    preheat.apply(model())
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(report()))
    first = captured.get().split("pipeline")[0]
    assert "no checkpoint" in first
    assert "NotFound: s3://models/gone.ckpt does not exist" in first
    assert "Correct the key" in first
    assert "initial" in captured.get()
    html = page(report())
    assert '<dl><dt>no checkpoint</dt><dd class="alert">NotFound: s3://models/gone.ckpt does not exist</dd>' in html
    assert "4 initial" in html
    assert '<i class="skipped">' not in html


@pytest.mark.parametrize(("tensors", "kind"), [
    ({"net.weight": torch.ones(2)}, NothingMatchedError),
    ({"encoder.weight": torch.ones(4, 4)}, CheckpointIncompatibleError),
    ({"encoder.weight": torch.ones(5, 4)}, CheckpointIncompatibleError),
])  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_passed_over(going_on, tmp_path, tensors, kind):
    bundle = going_on(write_bundle(tmp_path / "bundle", tensors))
    trained = model()
    before = values(trained)
    assert preheat.apply(trained).failure["reason"] == kind.reason
    assert same(trained, before)
    going_on(bundle, "Fail")
    with pytest.raises(kind):
        preheat.apply(model())


@pytest.mark.parametrize("policy", ["Fail", "", "continue"])
def test_without_the_policy_a_bundle_that_is_absent_raises_what_the_loader_met(going_on, absent, policy):
    going_on(absent, policy)
    with pytest.raises(CheckpointNotFoundError, match="does not exist"):
        preheat.apply(model())


def test_bytes_that_are_not_those_of_the_bundle_are_never_passed_over(going_on, tmp_path):
    bundle = going_on(other(tmp_path))
    (bundle / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(NotABundleError):
        preheat.apply(model())
    (bundle / "manifest.json").unlink()
    with pytest.raises(NotABundleError):
        preheat.apply(model())


def test_a_reason_that_is_never_passed_over_is_not_when_it_lies_where_a_bundle_would(going_on, tmp_path):
    Absence("p", CheckpointValidationError("sha256 differs")).write(tmp_path / "absent")
    going_on(tmp_path / "absent")
    with pytest.raises(CheckpointValidationError):
        preheat.apply(model())


def test_a_wrong_call_is_never_passed_over(going_on, absent):
    going_on(absent)
    with pytest.raises(CheckpointConfigError, match="not int"):
        preheat.apply(7)


def test_a_checkpoint_that_no_strategy_applies_is_never_passed_over(going_on, tmp_path):
    going_on(write_bundle(tmp_path / "bundle", values(model()), [{"freezing": {"layers": ["encoder"]}}]))
    with pytest.raises(NoWeightsError):
        preheat.apply(model())


def test_a_modifier_that_fails_after_the_weights_are_in_is_never_passed_over(going_on, tmp_path):
    stages = [WEIGHTS_ONLY, {"freezing": {"layers": ["nowhere"]}}]
    going_on(write_bundle(tmp_path / "bundle", values(model()), stages))
    with pytest.raises(NothingMatchedError, match="the model was touched: do not train with it"):
        preheat.apply(model())


class Half(PipelineStage):
    """Changes a weight and then finds that something does not fit."""

    async def process(self, context):
        with torch.no_grad():
            context.model["head"].bias.zero_()
        raise CheckpointIncompatibleError("half of it did not fit")


class HalfOfTheSecond(Half):
    """Does so with a model that has a head, and leaves others."""

    async def process(self, context):
        if hasattr(context.model, "bias"):
            raise CheckpointIncompatibleError("no head")
        return await super().process(context)


class Unreachable(PipelineStage):
    """Fails before it touches anything."""

    async def process(self, context):
        raise AccessDeniedError("no token")


class Wrong(PipelineStage):
    """A defect."""

    async def process(self, context):
        raise KeyError("defect")


class Full(PipelineStage):
    """Needs more memory than there is."""

    async def process(self, context):
        raise MemoryError


def own(tmp_path, stage):
    spelled = {"_target_": f"{__name__}.{stage.__name__}"}
    return write_bundle(tmp_path / "bundle", values(model()), [spelled])


def test_a_stage_of_the_users_own_that_touched_the_model_is_found_out(going_on, tmp_path):
    going_on(own(tmp_path, Half))
    with pytest.raises(CheckpointIncompatibleError, match="half of it did not fit; the model was touched"):
        preheat.apply(model())


def test_a_stage_of_the_users_own_that_touched_nothing_is_passed_over(going_on, tmp_path):
    going_on(own(tmp_path, Unreachable))
    assert preheat.apply(model()).failure["reason"] == "AccessDenied"


@pytest.mark.parametrize(("stage", "kind"), [(Wrong, CheckpointError), (Full, MemoryError)])
def test_defects_and_a_lack_of_memory_are_never_passed_over(going_on, tmp_path, stage, kind):
    going_on(own(tmp_path, stage))
    with pytest.raises(kind):
        preheat.apply(model())


def test_a_model_without_initial_weights_has_nothing_to_go_on_from(going_on, absent):
    going_on(absent)
    for empty in (torch.nn.Linear(2, 2, device="meta"), torch.nn.BatchNorm1d(2, affine=False, device="meta")):
        with pytest.raises(CheckpointNotFoundError, match="no initial weights to go on from"):
            preheat.apply(empty)


def test_of_several_models_none_of_which_it_fits_none_is_touched(going_on, tmp_path):
    going_on(other(tmp_path))
    first, second = model(), torch.nn.Linear(3, 3)
    before = values(first), values(second)
    report = apply_to(CheckpointContext(model=first), CheckpointContext(model=second))
    assert (report.strategy, set(report.sizes)) == ("none", set(before[0]))
    assert same(first, before[0])
    assert same(second, before[1])


def test_a_second_model_that_was_touched_is_found_out_too(going_on, tmp_path):
    going_on(own(tmp_path, HalfOfTheSecond))
    with pytest.raises(CheckpointError, match="the model was touched"):
        apply_to(CheckpointContext(model=torch.nn.Linear(3, 3)), CheckpointContext(model=model()))


def test_a_framework_that_is_not_known_is_refused_and_passed_over(going_on, absent, monkeypatch, capsys):
    class Trainer:
        """Of a version that has no `train`."""

    monkeypatch.setattr(hooks, "applied_any", lambda: False)  # as at the start of a process
    hooks.wrap_known(Trainer, {"train": lambda *_: None})
    going_on(absent, "Fail")
    with pytest.raises(UnsupportedVersionError, match="its Trainer has no train"):
        Trainer()
    going_on(absent)
    assert isinstance(Trainer(), Trainer)
    assert LOUD + "UnsupportedVersion: " in capsys.readouterr().err


def test_the_guard_lets_the_step_of_a_script_that_never_asks_and_says_so(going_on, absent, capsys):
    going_on(absent)
    optimizer = torch.optim.SGD(model().parameters(), lr=0.1)
    guard.install()
    try:
        optimizer.step()
        optimizer.step()
    finally:
        first_step.release()
    assert capsys.readouterr().err.count(LOUD) == 1
    shown = CliRunner().invoke(app, ["report"])  # no model was at hand
    assert shown.exit_code == 0
    assert "NotFound" in shown.output
    assert "module" not in shown.output


def test_the_guard_still_stops_a_script_that_has_a_bundle_and_does_not_ask(going_on, tmp_path):
    going_on(other(tmp_path))
    optimizer = torch.optim.SGD(model().parameters(), lr=0.1)
    guard.install()
    try:
        with pytest.raises(NoWeightsError, match="of pipeline 'finetune'"):
            optimizer.step()
    finally:
        first_step.release()


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return lay_out_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def lightning(shim, tmp_path_factory):
    """Has imported Lightning, with the shim."""
    with warm_python(shim, tmp_path_factory.mktemp("warm"), "lightning.pytorch") as python:
        yield python


@pytest.fixture
def pod(shim, tmp_path, absent):
    given = Pod(shim, tmp_path, absent)
    given.environment["PREHEAT_ON_FAILURE"] = "Continue"
    return given


def test_a_lightning_script_that_never_mentions_preheat_trains_from_its_initial_weights(pod, lightning):
    train = "torch.manual_seed(1)\nmodel = Model()\ntrainer().fit(model, data)\n"
    done = pod.on(lightning).succeed((LIGHTNING + train + SAVE).format(package="lightning.pytorch"))
    assert done.stderr.count(LOUD + "NotFound") == 1
    out = torch.load(pod.work / "out.pt", weights_only=True)
    assert any(not torch.equal(value, out["first"][name]) for name, value in out["last"].items())
    assert json.loads(pod.report.read_text())["strategy"] == "none"


def test_a_lightning_that_is_not_known_is_refused_by_name_and_passed_over(going_on, absent, monkeypatch, capsys):
    lightning = pytest.importorskip("lightning.pytorch")
    from preheat.shim import lightning as ours

    monkeypatch.setattr(ours, "applied_any", lambda: False)  # as at the start of a process
    monkeypatch.setenv("PREHEAT_SHIM", "auto")
    going_on(absent, "Fail")
    for version, known in (("2.2.0", True), ("2.7.0dev1", True), ("2.1.4", False), ("1.9.5", False), ("3.0", False)):
        monkeypatch.setattr(lightning, "__version__", version)
        if known:
            assert len(ours.callbacks()) == 1
            continue
        with pytest.raises(UnsupportedVersionError, match=rf"pytorch {version} is none that Preheat knows: 2.2 to 2.x"):
            ours.callbacks()
    going_on(absent)
    assert ours.callbacks() == []
    assert LOUD + "UnsupportedVersion: lightning.pytorch 3.0 is none" in capsys.readouterr().err


@pytest.mark.parametrize("policy", ["Continue", "Fail"])
def test_a_plain_script_that_never_asks_trains_from_its_initial_weights_or_not_at_all(pod, lightning, policy):
    pod.environment["PREHEAT_ON_FAILURE"] = policy
    done = pod.on(lightning).python(PLAIN.format(apply=""))
    assert done.stderr.count(LOUD + "NotFound") == (policy == "Continue")
    if policy == "Fail":
        assert done.returncode != 0
        assert "CheckpointNotFoundError: s3://models/gone.ckpt does not exist. Correct the key" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(pod.report.read_text())["failure"]["reason"] == "NotFound"


def test_a_process_without_torch_hears_nothing_of_it(pod):
    assert pod.succeed("print('fine')").stderr == ""


def with_old_python(shim, folder):
    """A shim for which this Python is too old."""
    folder.mkdir()
    module = (shim / "sitecustomize.py").read_text()
    (folder / "sitecustomize.py").write_text(module.replace("(3, 11)", "(3, 99)"))
    (folder / "preheat").symlink_to(shim / "preheat")
    [information] = shim.glob("*.dist-info")
    (folder / information.name).symlink_to(information)
    return folder


def test_a_python_that_is_too_old_is_passed_over_when_torch_is_imported(shim, tmp_path, absent):
    pod = Pod(with_old_python(shim, tmp_path / "old"), tmp_path, absent)
    assert pod.python("import torch").returncode != 0
    pod.environment["PREHEAT_ON_FAILURE"] = "Continue"
    assert pod.succeed("print('fine')").stderr == ""
    done = pod.succeed("import sys, importlib.util as u; u.find_spec('torch'), u.find_spec('torch'); print(sys.path)")
    assert done.stderr.count(LOUD + "UnsupportedVersion: Python 3.11 is too old") == 1
    assert '"strategy": "none"' in done.stderr
    assert str(pod.shim) not in done.stdout  # frameworks do not find our entry points


def test_the_loose_module_can_be_read_by_every_python_3(shim):
    ast.parse((shim / "sitecustomize.py").read_text(), feature_version=(3, 6))


FAKE_TORCH = """
import sys, types
sys.modules["torch.optim.optimizer"] = types.ModuleType("torch.optim.optimizer")
sys.modules["torch.optim"] = types.ModuleType("torch.optim")
__version__ = "1.9"
"""


def test_a_torch_that_cannot_be_watched_is_refused_by_name_and_passed_over(pod, tmp_path):
    (tmp_path / "fake" / "torch").mkdir(parents=True)
    (tmp_path / "fake" / "torch" / "__init__.py").write_text(FAKE_TORCH)
    pod.environment["PYTHONPATH"] += f":{tmp_path / 'fake'}"
    done = pod.succeed("import torch; print(torch.__version__)")
    assert done.stdout == "1.9\n"
    assert LOUD + "UnsupportedVersion: torch 1.9 has no hook before the steps" in done.stderr
    pod.environment["PREHEAT_ON_FAILURE"] = "Fail"
    assert "ImportError: Preheat cannot watch this process (torch: torch 1.9 has" in pod.python("import torch").stderr
