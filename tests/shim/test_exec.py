"""`preheat exec` with real commands: environment, exit code, signals, several processes, scripts that know nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shim.test_training_process import LIGHTNING, SAVE

from preheat.bundle.eviction import Policy, collect
from preheat.bundle.processes import RUNNING, forget_ended
from preheat.launch import default_volume

PIPELINE = "stages:\n- local: {path: model.ckpt}\n- weightsOnly: {}\n- freezing: {layers: [encoder]}\n"
SAY = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture
def job(tmp_path):
    torch.manual_seed(7)
    linear = {"encoder": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 1)}
    torch.save({"state_dict": torch.nn.ModuleDict(linear).state_dict()}, tmp_path / "model.ckpt")
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return Job(tmp_path)


class Job:
    """A folder with a pipeline and a checkpoint; `exec` runs a command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.volume = folder, folder / "volume"
        inherited = {name: v for name, v in os.environ.items() if not name.startswith(("PREHEAT_", "PYTHON", "RANK"))}
        self.environment = {**inherited, "PREHEAT_VOLUME": str(self.volume), "CUDA_VISIBLE_DEVICES": ""}
        self.environment["PREHEAT_REPORT"] = str(folder / "report.json")

    def start(
        self, *command: str, options: tuple[str, ...] = (), stdin=None, **environment: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "preheat", "exec", *options, "--", *command],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def exec(self, *command: str, **given) -> tuple[int, str, str]:
        with self.start(*command, **given) as process:
            out, err = process.communicate(timeout=120)
            return process.returncode, out, err

    def folders(self) -> list[Path]:
        return list(self.volume.glob("pods/*"))


def test_a_lightning_script_that_never_mentions_preheat_trains_from_the_checkpoint(job):
    train = "model = Model()\ntrainer().fit(model, data)\n"
    (job.folder / "train.py").write_text((LIGHTNING + train + SAVE).format(package="lightning.pytorch"))
    code, _, err = job.exec(sys.executable, "train.py")
    assert code == 0, err
    assert "Preheat: loaded 4 of 4 tensors" in err
    out = torch.load(job.folder / "out.pt", weights_only=True)
    weights = torch.load(job.folder / "model.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(out["first"][name], tensor) for name, tensor in weights.items())
    assert out["trained"] == ["head.weight", "head.bias"]


def test_the_command_has_the_environment_of_a_pod_and_keeps_its_own(job):
    code, out, err = job.exec(sys.executable, "-c", SAY, PYTHONPATH="/theirs", PYTHONDONTWRITEBYTECODE="1")
    assert code == 0, err
    told = json.loads(out)
    bundle, shim = Path(told["PREHEAT_BUNDLE"]), Path(told["PYTHONPATH"].partition(":")[0])
    assert (bundle / "manifest.json").is_file()
    assert bundle.parent == shim.parent == job.volume / "pods" / told["PREHEAT_POD_UID"]
    assert {path.name.partition("-")[0] for path in shim.iterdir()} == {"preheat", "sitecustomize.py"}
    assert not list(shim.rglob("*.pyc"))
    assert told["PYTHONPATH"].endswith(":/theirs")
    assert told["PREHEAT_SHIM"] == "auto"


def test_switched_off_only_the_bundle_is_given_under_the_name_of_the_resource(job):
    indented = PIPELINE.replace("\n", "\n  ")
    (job.folder / "p.yaml").write_text(f"metadata: {{name: finetune}}\nspec:\n  {indented}")
    told = json.loads(job.exec(sys.executable, "-c", SAY, options=("--shim", "off", "--pipeline", "p.yaml"))[1])
    manifest = json.loads((Path(told["PREHEAT_BUNDLE"]) / "manifest.json").read_text())
    assert manifest["pipeline"]["name"] == "finetune"
    assert "PYTHONPATH" not in told
    assert not (Path(told["PREHEAT_BUNDLE"]).parent / "shim").exists()


def test_the_commands_options_are_the_commands(job):
    (job.folder / "train.py").write_text("import sys; print(sys.argv[1:])")
    code, out, err = job.exec(sys.executable, "train.py", "--pipeline", "x", "--help")
    assert (code, out) == (0, "['--pipeline', 'x', '--help']\n"), err


def test_exit_code_and_signals_are_the_commands_own(job):
    assert job.exec(sys.executable, "-c", "raise SystemExit(7)")[0] == 7
    script = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    ignored = int(job.exec("grep", "SigIgn", "/proc/self/status")[1].split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))
    with job.start(sys.executable, "-c", script) as process:
        assert process.stdout.readline().strip() == str(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("./pipeline.yaml", 126)])
def test_a_command_that_cannot_be_run_has_the_exit_code_that_shells_give(job, command, code):
    found, _, err = job.exec(command)
    assert found == code
    assert f"{command} cannot be run" in err


def test_a_checkpoint_that_is_not_there_stops_before_the_command(job):
    (job.folder / "model.ckpt").unlink()
    code, out, err = job.exec("echo", "started")
    assert (code, out) == (11, "")
    assert "NotFound: there is no file" in err


def test_several_processes_of_a_job_share_one_bundle(job):
    link = "import json, os; print(json.dumps(os.readlink(os.environ['PREHEAT_BUNDLE'])))"  # goes when they have ended
    processes = [job.start(sys.executable, "-c", link, SLURM_PROCID=str(rank)) for rank in range(3)]
    ended = []
    for process in processes:
        with process:
            out, err = process.communicate(timeout=120)
            ended.append((process.returncode, json.loads(out), err))
    assert [code for code, _, _ in ended] == [0, 0, 0]
    bundles = {told for _, told, _ in ended}
    assert len(bundles) == len(list((job.volume / "bundles").iterdir())) == 1
    assert "the bundle was" in ended[0][2]
    assert [err for _, _, err in ended[1:]] == ["", ""]


def test_the_folder_of_a_process_goes_when_it_has_ended_and_not_before(job):
    def forget():
        forget_ended(job.volume / "pods")

    with job.start(sys.executable, "-c", "print(1, flush=True); input()", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "1\n"
        [living] = job.folders()
        assert len(collect(job.volume, Policy(max_size=0)).left.bundles) == 1
        forget()
        assert (living / RUNNING).exists()
        process.communicate("\n")
    assert collect(job.volume, Policy(), dry_run=True).pods == collect(job.volume, Policy()).pods != ()
    assert job.folders() == []
    job.exec("true")
    forget()
    assert job.folders() == []


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"PREHEAT_VOLUME": "/a"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/preheat")),
        ({}, Path.home() / ".cache" / "preheat"),
    ],
)
def test_bundles_are_kept_among_caches_unless_told_otherwise(environment, folder):
    assert default_volume(environment) == folder


def test_a_checkpoint_that_is_not_there_is_passed_over_where_the_pipeline_says_so(job):
    (job.folder / "model.ckpt").unlink()
    (job.folder / "pipeline.yaml").write_text(PIPELINE + "onFailure: Continue\n")
    code, out, err = job.exec(sys.executable, "-c", SAY)
    assert code == 0, err
    assert "NotFound: " in err
    assert "NO CHECKPOINT: the training goes on from its initial weights" in err
    told = json.loads(out)
    assert told["PREHEAT_ON_FAILURE"] == "Continue"
    assert json.loads((Path(told["PREHEAT_BUNDLE"]) / "absence.json").read_text())["reason"] == "NotFound"


def test_only_a_training_goes_on_the_loaders_part_alone_fails(job):
    (job.folder / "model.ckpt").unlink()
    (job.folder / "pipeline.yaml").write_text(PIPELINE + "onFailure: Continue\n")
    command = [sys.executable, "-m", "preheat", "run", "pipeline.yaml", "--output", "bundles"]
    done = subprocess.run(command, cwd=job.folder, env=job.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 11
    assert "NotFound" in done.stderr
