import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from preheat.bundle import lease
from preheat.bundle.manifest import Manifest, Pipeline, SourceFacts, TensorFacts
from preheat.bundle.store import Partial, Store, digest_of
from preheat.errors import CheckpointConfigError, NotABundleError, StorageError
from preheat.spec import parse

DIGEST = "d" * 32
CONTENT = b"weights"
MANIFEST = Manifest(
    digest=DIGEST,
    pipeline=Pipeline("finetune", "team-a", 7),
    source=SourceFacts("s3://b/k", "etag:1", 7, "torch-zip", "lightning"),
    files={"model.safetensors": len(CONTENT)},
    tensors={"w": TensorFacts("F32", (2, 3), 7), "v": TensorFacts("BF16", ())},
    aliases={"u": "w"},
    state={"epoch": 3},
    stages=({"weightsOnly": {}},),
    seconds={"total": 1.5},
)


def publish(partial: Partial | None) -> Path:
    assert partial
    partial.weights.write_bytes(CONTENT)
    return partial.publish(MANIFEST)


def test_a_manifest_survives_json() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"layout": 2}', '{"layout": 1}', "null", "{", b"\xff", "[" * 9999])
def test_other_documents_are_no_manifest(text: str | bytes) -> None:
    with pytest.raises(NotABundleError):
        Manifest.from_json(text)


def test_a_digest_depends_on_source_version_and_stages_alone() -> None:
    stages = [{"s3": {"bucket": "b", "key": "k"}}, {"weightsOnly": {}}]
    digest = digest_of("s3://b/k", "etag:1", parse({"stages": stages}))
    assert digest == digest_of("s3://b/k", "etag:1", parse({"stages": stages, "maxRetries": 9}))
    assert digest != digest_of("s3://b/k", "etag:1", parse({"stages": stages, "continueOnError": True}))
    assert len(digest) == 32
    others = [
        digest_of("s3://b/k", "etag:2", parse({"stages": stages})),
        digest_of("s3://b/other", "etag:1", parse({"stages": stages})),
        digest_of("s3://b/k", "etag:1", parse({"stages": [*stages, {"freezing": {"layers": ["a"]}}]})),
    ]
    assert len({digest, *others}) == 4


def test_a_published_bundle_is_found_and_readable_by_other_users(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find(DIGEST) is None
    mask = os.umask(0o022)
    try:
        with store.make(DIGEST, "pod-1") as partial:
            folder = publish(partial)
    finally:
        os.umask(mask)
    assert store.find(DIGEST) == (folder, MANIFEST)
    assert list(store.bundles.iterdir()) == [folder]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((folder / "manifest.json").stat().st_mode) == 0o644


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.make(DIGEST, "pod-1") as partial:
        assert partial
        partial.weights.write_bytes(CONTENT)
    assert list(store.bundles.iterdir()) == []


@pytest.mark.parametrize(
    "damage", ["no manifest", "short file", "no file", "other digest", "a link", "weights are a link", "a pipe"]
)
def test_a_damaged_bundle_is_not_found_and_is_replaced(damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.make(DIGEST, "pod-1") as partial:
        folder = publish(partial)
    if damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "short file":
        (folder / "model.safetensors").write_bytes(b"x")
    elif damage == "no file":
        (folder / "model.safetensors").unlink()
    elif damage == "other digest":
        (folder / "manifest.json").write_text(MANIFEST.to_json().replace("dddd", "eeee"))
    elif damage == "weights are a link":
        (folder / "model.safetensors").rename(tmp_path / "elsewhere")
        (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    elif damage == "a pipe":
        (folder / "manifest.json").unlink()
        os.mkfifo(folder / "manifest.json")
    else:
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    assert store.find(DIGEST) is None
    with store.make(DIGEST, "pod-1") as partial:
        assert publish(partial) == folder
    assert store.find(DIGEST)


def test_links_in_the_place_of_our_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").touch()
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "bundles").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="is a link"), Store(tmp_path / "volume").make(DIGEST, "p"):
        pass
    (tmp_path / "volume" / "bundles").unlink()
    (tmp_path / "volume" / "bundles").mkdir()
    (tmp_path / "volume" / "bundles" / f".partial-{DIGEST}-p").symlink_to(tmp_path / "victim")
    with Store(tmp_path / "volume").make(DIGEST, "p") as partial:
        publish(partial)
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["precious"]


def test_a_pod_gets_a_link_and_the_shim(tmp_path: Path) -> None:
    store = Store(tmp_path / "volume")
    with store.make(DIGEST, "pod-1") as partial:
        folder = publish(partial)
    (tmp_path / "shim" / "preheat").mkdir(parents=True)
    (tmp_path / "shim" / "sitecustomize.py").write_text("pass")
    (tmp_path / "shim" / "preheat" / "__init__.py").touch()
    assert store.attached("pod-1") is None
    for _ in range(2):
        pod = store.attach("pod-1", DIGEST, tmp_path / "shim")
        assert (pod / "bundle").resolve() == folder
        assert os.readlink(pod / "bundle") == f"../../bundles/{DIGEST}"
        assert (pod / "shim" / "sitecustomize.py").read_text() == "pass"
    assert store.attached("pod-1") == (folder, MANIFEST)
    assert [path.name for path in store.pods.iterdir()] == ["pod-1"]


@pytest.mark.parametrize("planted", ["a link elsewhere", "a linked folder"])
def test_a_pods_folder_that_leads_elsewhere_is_not_believed(planted: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "volume")
    with store.make(DIGEST, "pod-1") as partial:
        publish(partial)
    pod = store.attach("pod-1", DIGEST, None)
    if planted == "a link elsewhere":
        (pod / "bundle").unlink()
        (pod / "bundle").symlink_to(f"../../planted/{DIGEST}")
    else:
        pod.rename(tmp_path / "planted")
        pod.symlink_to(tmp_path / "planted")
    assert store.attached("pod-1") is None
    store.attach("pod-1", DIGEST, None)
    assert store.attached("pod-1")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 300])
def test_a_pods_name_cannot_lead_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointConfigError, match="plain name"):
        Store(tmp_path).attach(name, DIGEST, None)


def test_remains_of_other_bundles_go_when_they_are_old(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, young = (store.bundles / f".partial-{'e' * 32}-{age}" for age in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    with store.make(DIGEST, "p"):
        pass
    assert not old.exists()
    assert young.exists()


MAKER = """
import sys, time
from pathlib import Path
from preheat.bundle import lease
from preheat.bundle.store import Store
import loader.test_store as t
lease.HEARTBEAT, lease.EXPIRY = 0.05, 0.5
root, owner, wait = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Store(root).make(t.DIGEST, owner) as partial:
    if partial:
        partial.weights.write_bytes(t.CONTENT)
    print("making" if partial else "found", flush=True)
    if partial:
        while not (root / wait).exists():
            time.sleep(0.01)
        partial.publish(t.MANIFEST)
"""


def maker(root: Path, owner: str, wait: str) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(root), owner, wait],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": tests},
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_of_two_makers_one_works_and_the_other_finds(tmp_path: Path) -> None:
    first = maker(tmp_path, "pod-1", "go")
    assert said(first) == "making"
    second = maker(tmp_path, "pod-2", "go")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1.5)  # longer than the expiry: a living maker is waited for
        (tmp_path / "go").touch()
        assert said(second) == "found"
        assert (first.wait(20), second.wait(20)) == (0, 0)
    finally:
        end(first, second)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [DIGEST]


def test_a_dead_makers_work_is_taken_over(tmp_path: Path) -> None:
    first = maker(tmp_path, "pod-1", "never")
    assert said(first) == "making"
    second = maker(tmp_path, "pod-2", "go")
    try:
        os.kill(first.pid, signal.SIGKILL)
        assert said(second) == "making"
        (tmp_path / "go").touch()
        assert second.wait(20) == 0
    finally:
        end(first, second)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [DIGEST]


def test_a_maker_that_was_frozen_and_replaced_does_not_publish_twice(tmp_path: Path) -> None:
    first = maker(tmp_path, "pod-1", "late")
    assert said(first) == "making"
    os.kill(first.pid, signal.SIGSTOP)
    second = maker(tmp_path, "pod-2", "go")
    try:
        assert said(second) == "making"
        (tmp_path / "go").touch()
        assert second.wait(20) == 0
        (tmp_path / "late").touch()
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(20) == 0
    finally:
        end(first, second)
    assert Store(tmp_path).find(DIGEST)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [DIGEST]


def test_a_maker_that_wakes_up_while_its_remains_are_removed_does_not_publish_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    with store.make(DIGEST, "pod-1") as frozen:
        assert frozen
        frozen.weights.write_bytes(CONTENT)

        def remove_slowly(path: Path, **_: object) -> None:
            folder = os.open(path, os.O_DIRECTORY)
            names = os.listdir(folder)
            with pytest.raises(StorageError):
                frozen.publish(MANIFEST)
            for name in names:
                os.unlink(name, dir_fd=folder)
            os.close(folder)
            path.rmdir()

        monkeypatch.setattr(lease, "EXPIRY", -1)
        with monkeypatch.context() as slow:
            slow.setattr("preheat.bundle.leftovers.shutil.rmtree", remove_slowly)
            lease._living([frozen.folder], {})
        assert list(store.bundles.iterdir()) == []


def test_a_sign_of_life_that_an_nfs_client_shows_a_minute_late_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives: dict[Path, tuple[int, float]] = {}
    for now in (0.0, 62.0):  # the longest that attributes of a folder are kept, and one beat
        monkeypatch.setattr("preheat.bundle.lease.time.monotonic", lambda now=now: now)
        assert lease._living([tmp_path], lives) == [tmp_path]


def test_a_passing_fault_of_the_volume_does_not_end_the_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT", 0.01)
    folder = tmp_path / "folder"
    with lease.heartbeat(folder):  # not there yet: what a stale handle looks like
        time.sleep(0.1)
        folder.mkdir()
        os.utime(folder, (1, 1))
        deadline = time.monotonic() + 60
        while folder.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_many_makers_at_once_end_with_one_bundle(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    makers = [maker(tmp_path, f"pod-{number}", "go") for number in range(4)]
    try:
        assert all(process.wait(30) == 0 for process in makers)
    finally:
        end(*makers)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [DIGEST]


def test_a_dead_process_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    own = lease.owner_here()
    remains = tmp_path / "bundles" / f".partial-{DIGEST}-{own.rpartition('_')[0]}_{process.pid}"
    remains.mkdir(parents=True)
    began = time.monotonic()
    with Store(tmp_path).make(DIGEST, own) as partial:
        publish(partial)
    assert time.monotonic() - began < 5
    assert not remains.exists()
