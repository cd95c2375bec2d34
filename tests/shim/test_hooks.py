"""When methods of frameworks are replaced: with stand-ins for them, which are imported in no time."""

from __future__ import annotations

from pathlib import Path

import pytest
from shim.bundles import write_bundle
from shim.pod import Pod, lay_out_shim

TRAINER = """
class Trainer:
    def __init__(self): self.model_init = None
    def train(self, resume_from_checkpoint=None): "As it was."
    def call_model_init(self): ...
    def _inner_training_loop(self): ...
    def evaluate(self): ...
    def predict(self): ...
    def evaluation_loop(self): ...
"""
SCRIPT = """
import sys
sys.path.insert(0, "fake")
import transformers
assert "preheat.shim.transformers" not in sys.modules, "its Trainer is imported late"
from transformers.trainer import Trainer
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out_shim(tmp_path_factory.mktemp("shim"))


def pod(shim: Path, work: Path, trainer: str = TRAINER, mode: str = "auto") -> Pod:
    (package := work / "fake" / "transformers").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '9.9'")
    (package / "trainer.py").write_text(trainer)
    return Pod(shim, work, write_bundle(work / "bundle", {}), mode)


def test_a_trainer_is_wrapped_when_its_module_is_imported_and_keeps_its_looks(shim: Path, tmp_path: Path) -> None:
    pod(shim, tmp_path).succeed(SCRIPT + """
import inspect
assert Trainer.train.__wrapped__ and Trainer.train.__doc__ == "As it was."
assert list(inspect.signature(Trainer().train).parameters) == ["resume_from_checkpoint"]
assert "torch" not in sys.modules
""")  # fmt: skip


def test_nothing_is_wrapped_unless_the_shim_is_automatic(shim: Path, tmp_path: Path) -> None:
    pod(shim, tmp_path, mode="manual").succeed(SCRIPT + "assert not hasattr(Trainer.train, '__wrapped__')")


def test_a_version_that_is_not_known_is_refused_where_it_is_used(shim: Path, tmp_path: Path) -> None:
    script = SCRIPT + "print('imported')\nTrainer()\n"
    done = pod(shim, tmp_path, TRAINER.replace("_inner_training_loop", "_run")).python(script)
    assert (done.returncode, done.stdout) == (1, "imported\n")
    assert (
        "UnsupportedVersionError: transformers 9.9 is none that Preheat knows: its Trainer has no _inner" in done.stderr
    )


def test_a_version_that_is_not_known_is_passed_over_where_the_pipeline_says_so(shim: Path, tmp_path: Path) -> None:
    unknown = pod(shim, tmp_path, TRAINER.replace("_inner_training_loop", "_run"))
    done = unknown.succeed(SCRIPT + "Trainer().train()", PREHEAT_ON_FAILURE="Continue")
    assert "transformers 9.9 is none that Preheat knows" in done.stderr
