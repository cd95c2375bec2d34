"""Real training scripts in processes of their own, with the shim as a pod has it: Lightning, plain torch, neither."""

import json
from textwrap import dedent

import pytest
import torch
from shim.bundles import WEIGHTS_ONLY, write_bundle
from shim.pod import Pod, lay_out_shim, warm_python

LIGHTNING = """
import {package} as L
import torch

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 1)
        self.seen = []

    def training_step(self, batch, _):
        return self.head(self.encoder(batch[0])).square().mean()

    def validation_step(self, batch, _):
        self.seen.append(self.encoder.weight.detach().clone())

    test_step = validation_step

    def configure_optimizers(self):
        self.trained = [name for name, p in self.named_parameters() if p.requires_grad]
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    def on_train_start(self):
        self.first = {{name: value.detach().clone() for name, value in self.state_dict().items()}}

data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), batch_size=2)

def trainer(**settings):
    return L.Trainer(**{{**dict(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1), **settings}})
"""

SAVE = "\ntorch.save({{'first': model.first, 'last': model.state_dict(), 'trained': model.trained}}, 'out.pt')\n"


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return lay_out_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def weights():
    torch.manual_seed(7)
    return {
        "encoder.weight": torch.randn(4, 4), "encoder.bias": torch.randn(4),
        "head.weight": torch.randn(1, 4), "head.bias": torch.randn(1),
    }  # fmt: skip


@pytest.fixture
def pod(shim, tmp_path, weights):
    stages = [WEIGHTS_ONLY, {"freezing": {"layers": ["encoder"]}}]
    return Pod(shim, tmp_path, write_bundle(tmp_path / "bundle", weights, stages))


@pytest.fixture(scope="module")
def lightning(shim, tmp_path_factory):
    """Has imported Lightning, with the shim."""
    with warm_python(shim, tmp_path_factory.mktemp("warm"), "lightning.pytorch") as python:
        yield python


@pytest.fixture
def warm(pod, lightning):
    """`pod`, for scripts that may begin with Lightning imported."""
    return pod.on(lightning)


def manual(pod):
    return Pod(pod.shim, pod.work, pod.work / "bundle", "manual")


def script(body, package="lightning.pytorch", save=True):
    return (LIGHTNING + dedent(body) + (SAVE if save else "")).format(package=package)


def equal(state, weights, *names):
    return all(torch.equal(state[name], weights[name]) for name in names or weights)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_lightning_script_that_never_mentions_preheat_trains_from_the_checkpoint(pod, weights, package):
    other = {"lightning.pytorch": "pytorch_lightning", "pytorch_lightning": "lightning"}[package]
    done = pod.succeed(script(f"""
        model = Model()
        trainer().fit(model, data)
        import sys
        assert {other!r} not in sys.modules
        assert "configure_model" not in vars(model)
        import preheat
        assert preheat.__file__.startswith({str(pod.shim)!r}), preheat.__file__
    """, package))  # fmt: skip
    out = torch.load(pod.work / "out.pt", weights_only=True)
    assert equal(out["first"], weights)
    assert equal(out["last"], weights, "encoder.weight", "encoder.bias")
    assert not equal(out["last"], weights, "head.weight")
    assert out["trained"] == ["head.weight", "head.bias"]
    assert done.stderr.count("Preheat: loaded 4 of 4 tensors") == 1
    assert json.loads(pod.report.read_text())["totals"]["frozen"] == 2


def test_the_models_own_setup_and_configure_model_come_first(warm, weights):
    warm.succeed(script("""
        class Late(Model):
            def __init__(self):
                super().__init__()
                del self.head
            def setup(self, stage):
                self.order = ["setup"]
            def configure_model(self):
                self.order.append("configure_model")
                if not hasattr(self, "head"):
                    self.head = torch.nn.Linear(4, 1)
        model = Late()
        trainer().fit(model, data)
        assert model.order == ["setup", "configure_model"], model.order
    """))  # fmt: skip
    assert equal(torch.load(warm.work / "out.pt", weights_only=True)["first"], weights)


def test_validation_before_training_sees_the_checkpoint(warm, weights):
    done = warm.succeed(script("""
        model = Model()
        trainer().validate(model, data)
        torch.save(model.seen[0], "seen.pt")
        with torch.no_grad():
            model.head.weight.zero_()
        trainer().fit(model, data)
        assert not model.first["head.weight"].any(), "applied twice"
    """))  # fmt: skip
    assert torch.equal(torch.load(warm.work / "seen.pt", weights_only=True), weights["encoder.weight"])
    assert done.stderr.count("Preheat: loaded") == 1


def test_a_further_model_is_filled_when_it_is_trained_and_left_alone_when_it_is_only_tested(warm, weights):
    warm.succeed(script("""
        model = Model()
        trainer().fit(model, data)
        tested = Model()
        before = tested.encoder.weight.detach().clone()
        trainer().test(tested, data)
        assert torch.equal(tested.seen[0], before)
        model = Model()
        trainer().fit(model, data)
    """))  # fmt: skip
    assert equal(torch.load(warm.work / "out.pt", weights_only=True)["first"], weights)


def test_a_script_that_applied_the_checkpoint_to_a_part_is_not_disturbed(shim, lightning, tmp_path, weights):
    inner = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    pod = Pod(shim, tmp_path, write_bundle(tmp_path / "bundle", inner)).on(lightning)
    pod.succeed(script("""
        import preheat
        model = Model()
        preheat.apply(model.encoder)
        trainer().fit(model, data)
    """))  # fmt: skip
    assert equal(torch.load(tmp_path / "out.pt", weights_only=True)["first"], weights, "encoder.weight", "encoder.bias")


def test_lightnings_own_restore_wins_and_is_reported(warm, weights):
    done = warm.succeed(script("""
        model = Model()
        run = trainer(max_steps=2)
        run.fit(model, data)
        run.save_checkpoint("last.ckpt")
        saved = model.state_dict()
        model = Model()
        trainer(max_steps=4).fit(model, data, ckpt_path="last.ckpt")
        assert torch.equal(model.first["head.weight"], saved["head.weight"])
        assert model.trained == ["head.weight", "head.bias"]
    """))  # fmt: skip
    assert "Lightning then restored last.ckpt over it" in done.stderr


def test_two_processes_of_a_distributed_run_each_have_the_checkpoint(warm, weights):
    done = warm.succeed(script("""
        model = Model()
        trainer(strategy="ddp", devices=2).fit(model, data)
        torch.save(model.first, "first%d.pt" % model.global_rank)
    """, save=False))  # fmt: skip
    assert all(equal(torch.load(warm.work / f"first{rank}.pt", weights_only=True), weights) for rank in (0, 1))
    assert done.stderr.count("preheat.report {") == 2
    assert (warm.work / "report-rank1.json").exists()


@pytest.mark.parametrize("mode", ["manual", "off"])
def test_lightning_is_left_alone_unless_the_shim_is_automatic(pod, lightning, weights, mode):
    other = Pod(pod.shim, pod.work, pod.work / "bundle", mode)
    if mode == "manual":  # which Lightning's callback asks for when there is a trainer
        other.on(lightning)
    done = other.python(script("""
        model = Model()
        trainer().fit(model, data)
    """))  # fmt: skip
    if mode == "manual":
        assert done.returncode != 0
        assert "Call preheat.apply(model) in every process that trains" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "reheat" not in done.stderr


def test_a_checkpoint_that_does_not_fit_stops_lightning_before_the_first_step(shim, lightning, tmp_path):
    pod = Pod(shim, tmp_path, write_bundle(tmp_path / "bundle", {"net.encoder.weight": torch.ones(4, 4)}))
    pod.on(lightning)
    done = pod.python(script("model = Model()\ntrainer().fit(model, data)\n"))
    assert done.returncode != 0
    assert "NothingMatchedError: no name of the checkpoint is in the model" in done.stderr
    assert "without the prefix 'net.'" in done.stderr


PLAIN = """
import torch
model = torch.nn.ModuleDict({{"encoder": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 1)}})
{apply}
first = {{name: value.clone() for name, value in model.state_dict().items()}}
optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
model["head"](model["encoder"](torch.ones(2, 4))).sum().backward()
optimizer.step()
optimizer.step()
torch.save({{"first": first, "last": model.state_dict()}}, "out.pt")
"""


@pytest.fixture(params=["auto", "manual"])
def either(request, pod, lightning):
    """The pod in each mode; what is torch's alone differs in nothing, so one of them starts from nothing."""
    pod.environment["PREHEAT_SHIM"] = request.param
    return pod.on(lightning) if request.param == "auto" else pod


def test_a_plain_script_that_calls_apply_trains_from_the_checkpoint(either, weights):
    either.succeed(PLAIN.format(apply="import preheat; preheat.apply(model)"))
    out = torch.load(either.work / "out.pt", weights_only=True)
    assert equal(out["first"], weights)
    assert equal(out["last"], weights, "encoder.weight", "encoder.bias")
    assert not equal(out["last"], weights, "head.weight")


def test_a_plain_script_that_forgets_to_apply_fails_at_its_first_step(either):
    done = either.python(PLAIN.format(apply=""))
    assert done.returncode != 0
    assert "NoWeightsError: the checkpoint of pipeline 'finetune' was not applied in this process" in done.stderr
    assert "annotate the pod with `preheat.dev/shim: off`" in done.stderr
    assert not (either.work / "out.pt").exists()


def test_a_spawned_process_is_told_that_the_checkpoint_belongs_into_it(warm):
    done = warm.python(dedent("""
        import torch
        def train(rank, model):
            model(torch.ones(1, 4)).sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()
        if __name__ == "__main__":
            import preheat
            model = torch.nn.Sequential()
            model.encoder, model.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
            preheat.apply(model)
            torch.multiprocessing.spawn(train, (model,))
    """))  # fmt: skip
    assert done.returncode != 0
    assert "was not applied in this process" in done.stderr
    assert "Call preheat.apply(model) in every process that trains" in done.stderr


def test_switched_off_a_plain_script_trains_as_it_is(pod):
    pod.environment["PREHEAT_SHIM"] = "off"
    pod.succeed(PLAIN.format(apply=""))


def test_looking_for_torch_before_importing_it_does_not_lose_the_guard(pod):
    done = pod.python("import importlib.util; importlib.util.find_spec('torch')\n" + PLAIN.format(apply=""))
    assert "NoWeightsError" in done.stderr


def test_torch_is_imported_as_ever(pod):
    manual(pod).succeed(
        "import sys, inspect, torch\n"
        "assert type(torch.__loader__).__name__ == 'SourceFileLoader'\n"
        "assert 'exec_module' not in vars(torch.__loader__)\n"
        "assert not any('preheat' in type(f).__module__ for f in sys.meta_path)\n"
        "assert inspect.getsource(torch)\n"
    )


MODULES = """
import sys
names = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names) - set(sys.builtin_module_names)
print(sorted(n for n in names if not n.startswith('_')))
print(sorted(m for m in sys.modules if m.startswith('preheat')))
"""


def test_a_process_without_torch_imports_nothing_but_the_hook(pod):
    third, ours = pod.succeed(MODULES).stdout.splitlines()
    assert set(eval(third)) <= {"preheat", "sitecustomize", "apport_python_hook", "distutils-precedence"}
    assert eval(ours) == ["preheat", "preheat.shim", "preheat.shim.import_hook"]


def test_a_process_with_torch_alone_imports_nothing_but_the_guard(pod):
    _, ours = pod.succeed("import torch\n" + MODULES).stdout.splitlines()
    assert {name.removeprefix("preheat.") for name in eval(ours)} == {
        "preheat", "errors", "shim", "shim.first_step", "shim.guard", "shim.import_hook",
    }  # fmt: skip


def test_starting_python_costs_at_most_five_milliseconds(pod):
    cost = """
        import time, sys
        sys.path_importer_cache.clear()
        for name in [n for n in sys.modules if n.startswith("preheat")] + ["sitecustomize"]:
            sys.modules.pop(name, None)
        sys.meta_path[:] = [f for f in sys.meta_path if "preheat" not in type(f).__module__]
        start = time.perf_counter()
        import sitecustomize
        print(time.perf_counter() - start)
    """
    # As in a pod, where the folder is read-only and nothing can be compiled ahead.
    best = min(float(pod.succeed(dedent(cost), PYTHONDONTWRITEBYTECODE="1").stdout) for _ in range(5))
    assert best < 0.005


def test_the_users_own_sitecustomize_still_runs(pod, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("import sys; MINE = True; sys.path.insert(0, '/first'); print('theirs')")
    pod.environment["PYTHONPATH"] += f":{theirs}"
    done = pod.succeed("import sitecustomize, sys; print(sitecustomize.MINE, sys.path[:3])\n" + PLAIN.format(
        apply="import preheat; preheat.apply(model)"))  # fmt: skip
    first, second = done.stdout.splitlines()[:2]
    assert first == "theirs"
    assert second.startswith("True")
    assert str(pod.shim) in second
    assert "/first" in second


def test_an_error_in_the_users_own_sitecustomize_is_shown_as_ever_and_ours_still_works(pod, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("import no_such_module")
    pod.environment["PYTHONPATH"] += f":{theirs}"
    done = pod.python(PLAIN.format(apply=""))
    assert "No module named 'no_such_module'" in done.stderr
    assert "NoWeightsError" in done.stderr


def test_child_processes_inherit_the_shim_and_are_not_disturbed(pod):
    done = pod.succeed("import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(40 + 2)'], check=True)")
    assert done.stdout == "42\n"
    assert done.stderr == ""


def test_a_child_that_works_with_torch_and_trains_nothing_is_not_disturbed(pod):
    child = "import torch; print(torch.nn.Linear(2, 1)(torch.ones(1, 2)).shape, torch.optim.SGD.__name__)"
    done = pod.succeed(dedent(f"""
        import subprocess, sys
        subprocess.run([sys.executable, '-c', {child!r}], check=True)
        subprocess.run([sys.executable, '-I', '-c', 'import sys; print("preheat" in sys.modules)'], check=True)
    """))  # fmt: skip
    assert done.stdout == "torch.Size([1, 1]) SGD\nFalse\n"
    assert done.stderr == ""


def test_modules_of_the_users_own_python_path_come_after_the_shim_and_reach_children(pod, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "mine.py").write_text("print('mine')")
    pod.environment["PYTHONPATH"] += f":{theirs}"
    done = pod.succeed(
        "import mine, subprocess, sys; subprocess.run([sys.executable, '-c', 'import mine'], check=True)"
    )
    assert (done.stdout.count("mine"), done.stderr) == (2, "")


def test_installing_twice_is_installing_once(pod):
    pod.succeed(
        "import sys\nfrom preheat.shim import import_hook\nimport_hook.install()\nimport_hook.install()\n"
        "assert sum(getattr(f, 'watches_for_preheat', False) for f in sys.meta_path) == 1\n"
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("mode", "PREHEAT_SHIM is 'sometimes'"), ("package", "broken"), ("python", "is too old, 3.11 is the oldest")],
)
def test_a_shim_that_cannot_start_lets_only_the_import_of_torch_fail(shim, tmp_path, weights, fault, reason):
    folder = tmp_path / "shim"
    (folder / "preheat").mkdir(parents=True)
    module = (shim / "sitecustomize.py").read_text()
    (folder / "sitecustomize.py").write_text(module.replace("(3, 11)", "(3, 99)") if fault == "python" else module)
    (folder / "preheat" / "__init__.py").write_text("raise RuntimeError('broken')")
    pod = Pod(folder, tmp_path, write_bundle(tmp_path / "bundle", weights), "sometimes" if fault == "mode" else "auto")
    assert pod.succeed("print('fine')").stdout == "fine\n"
    done = pod.python("import torch")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: Preheat's shim could not start: ")
    assert reason in last
    assert last.endswith("Set PREHEAT_SHIM=off to train without it")


def test_a_torch_that_cannot_be_watched_does_not_import(pod, tmp_path):
    fake = tmp_path / "fake" / "torch"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("")
    pod.environment["PYTHONPATH"] += f":{fake.parent}"
    done = pod.python("import torch")
    assert "ImportError: Preheat cannot watch this process" in done.stderr


def test_lightning_shards_a_model_that_has_no_memory_yet(warm, weights):
    done = warm.succeed(script("""
        from lightning.pytorch.strategies import ModelParallelStrategy
        from torch.distributed.fsdp import fully_shard

        class Sharded(Model):
            def __init__(self):
                L.LightningModule.__init__(self)
            def configure_model(self):
                with torch.device("meta"):
                    self.encoder, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
                for layer in (self.encoder, self.head):
                    fully_shard(layer, mesh=self.device_mesh["data_parallel"])
            def on_train_start(self):
                whole = {{name: value.full_tensor() for name, value in self.state_dict().items()}}
                if self.global_rank == 0:
                    torch.save(whole, "out.pt")

        trainer(devices=2, strategy=ModelParallelStrategy(process_group_backend="gloo")).fit(Sharded(), data)
    """, save=False), OMP_NUM_THREADS="1")  # fmt: skip
    assert equal(torch.load(warm.work / "out.pt", weights_only=True), weights)
    assert done.stderr.count("Preheat, rank 1: loaded 4 of 4 tensors") == 1
    assert done.stderr.count("frozen 2 tensors (encoder); gave 4 tensors memory on cpu") == 2
