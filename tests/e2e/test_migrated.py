"""A configuration of each legacy system becomes a resource, and a pod's loader finds that system's files on a claim."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from legacy import lightning_files, noether_files

from demo.platforms import CLAIM, HOST_VOLUME
from e2e.tenant import SECONDS, Tenant, pod
from preheat.migrate import Answers, migrate
from preheat.migrate.places import Claim

pytestmark = pytest.mark.cluster

#: What the trainings were started with where their files were in /scratch; and which file a loader takes.
CONFIGURATIONS = {
    "anemoi": (
        "{training: {run_id: run-1}, system: {output: {root: /scratch, checkpoints: {root: anemoi}}}}",
        "anemoi/run-1/last.ckpt",
    ),
    "linnaeus": (
        "{MODEL: {PRETRAINED: zoo.pth}, TRAIN: {AUTO_RESUME: false}, ENV: {INPUT: {CACHE_DIR: /scratch/zoo}}}",
        "zoo/zoo.pth",
    ),
    "noether": (
        "{resume_run_id: 2026-03-01_abcde, output_path: /scratch/noether, resume_checkpoint: E2}",
        "noether/2026-03-01_abcde/checkpoints/upt_cp=E2_U20_S80_model.th",
    ),
    "stackwise": (
        "{load_rack: /scratch/rack_complete_1.pt, training: {checkpoint_dir: /scratch}}",
        "rack_complete_1.pt",
    ),
}


def write_files(folder: Path) -> None:
    """Small ones, in each system's layout."""
    layer = torch.nn.Linear(3, 2)
    lightning_files.save_training(folder / "anemoi" / "run-1" / "last.ckpt", layer)
    for epoch in (1, 2):
        tag = noether_files.position(epoch)
        noether_files.save_all(folder / "noether" / noether_files.RUN / "checkpoints", "upt", tag, layer)
    (folder / "zoo").mkdir()
    torch.save({"model": layer.state_dict()}, folder / "zoo" / "zoo.pth")
    parts = {"stacks": [layer.state_dict()], "embeddings": layer.state_dict(), "lm_head": layer.state_dict()}
    torch.save({**parts, "current_stacks": 1, "precision_settings": {0: "full"}}, folder / "rack_complete_1.pt")


@pytest.fixture(scope="module")
def migrated(tenant: Tenant) -> Iterator[Tenant]:
    """The files are on a claim, the resources are applied, and each has a pod."""
    folder = tenant.platform.cluster.scratch / f"claim-{tenant.namespace}"
    folder.mkdir()
    folder.chmod(0o777)
    write_files(folder)
    volume = HOST_VOLUME.format(namespace=tenant.namespace, folder=folder)
    tenant.platform.kubectl("create", "-f", "-", input=f"{volume}---\n{CLAIM.format(namespace=tenant.namespace)}")
    for system, (text, _) in CONFIGURATIONS.items():
        migration, _ = migrate(yaml.safe_load(text), system, Answers(system, Claim("checkpoints", "/scratch")))
        spec = {"containers": [tenant.container("train")]}
        tenant.apply([migration.document, pod(system, spec, label=system)])
    yield tenant
    tenant.kubectl("delete", "pods", "--all", f"--timeout={SECONDS}s")
    tenant.platform.kubectl("delete", "persistentvolume", f"checkpoints-{tenant.namespace}", "--wait=false")
    shutil.rmtree(folder)


@pytest.mark.parametrize("system", sorted(CONFIGURATIONS))
def test_a_pod_of_a_migrated_training_has_its_checkpoint(migrated: Tenant, system: str) -> None:
    seen = migrated.told(system, "train")
    assert seen["manifest"]["source"]["uri"] == f"/preheat/{CONFIGURATIONS[system][1]}"
    assert "model.safetensors" in seen["files"]
    assert ("state.safetensors" in seen["files"]) == (system in ("anemoi", "noether"))
