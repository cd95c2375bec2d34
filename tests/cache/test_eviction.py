import logging
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cache.volumes import DAY, age, attach, digest_named, letters, make, remains, size_of

from preheat.bundle.contents import survey
from preheat.bundle.eviction import GRACE, Policy, collect, discard, keep_within
from preheat.bundle.store import Store
from preheat.errors import BundleInUseError, CheckpointNotFoundError, StorageError


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Four bundles, the longest unused first: a, b, c, d."""
    for days, letter in enumerate("dcba", start=1):
        make(tmp_path, letter, days=days)
    return tmp_path


def room_for(volume: Path, bundles: float) -> Policy:
    return Policy(max_size=int(bundles * size_of(volume / "bundles" / digest_named("a"))))


def test_a_survey_tells_what_is_there(volume: Path) -> None:
    attach(volume, "pod-1", "c", days=0.5)
    attach(volume, "pod-2", "c", days=0.25)
    (volume / "bundles" / f".partial-{digest_named('e')}-pod-3").mkdir()
    found = survey(volume)
    assert [bundle.digest[0] for bundle in found.bundles] == ["a", "b", "d", "c"]  # a pod's folder shows its use, too
    assert found.bundles[-1].pods == ("pod-1", "pod-2")
    assert found.bundles[-1].used == pytest.approx(time.time() - DAY / 4, abs=60)
    assert found.size == 4 * size_of(volume / "bundles" / digest_named("a"))
    assert [(each.digest, each.maker) for each in found.unfinished] == [(digest_named("e"), "pod-3")]
    assert {pod.uid: pod.digest for pod in found.pods} == dict.fromkeys(("pod-1", "pod-2"), digest_named("c"))


def test_a_survey_of_nothing_is_empty(tmp_path: Path) -> None:
    assert survey(tmp_path).bundles == ()
    assert collect(tmp_path, Policy(0)).bundles == ()


def test_what_is_not_ours_is_neither_seen_nor_removed(volume: Path, tmp_path: Path) -> None:
    (volume / "bundles" / "notes").mkdir()
    (volume / "bundles" / "file").touch()
    (volume / "elsewhere").mkdir()
    (volume / "bundles" / digest_named("f")).symlink_to(volume / "elsewhere")
    assert len(survey(volume).bundles) == 4
    collect(volume, Policy(0))
    assert sorted(path.name[0] for path in (volume / "bundles").iterdir()) == ["f", "f", "n"]
    assert (volume / "elsewhere").is_dir()


def test_a_link_in_the_place_of_our_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "bundles").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="is a link"):
        collect(tmp_path / "volume", Policy(0))


def test_the_longest_unused_go_until_the_rest_fits(volume: Path) -> None:
    done = collect(volume, room_for(volume, 2.5))
    assert [bundle.digest[0] for bundle in done.bundles] == ["a", "b"]
    assert letters(volume) == "cd"
    assert done.left == survey(volume)
    assert remains(volume) == []


def test_what_fits_stays(volume: Path) -> None:
    assert collect(volume, room_for(volume, 4)).bundles == ()
    assert collect(volume, Policy()).bundles == ()
    assert letters(volume) == "abcd"


def test_a_bundle_that_a_pod_refers_to_stays_whatever_the_limit(volume: Path) -> None:
    attach(volume, "pod-1", "a", days=300)
    done = collect(volume, Policy(0))
    assert [bundle.digest[0] for bundle in done.bundles] == ["b", "c", "d"]
    assert letters(volume) == "a"
    assert Store(volume).attached("pod-1")


def test_a_pod_that_is_being_given_a_bundle_counts(volume: Path) -> None:
    scratch = volume / "pods" / ".partial-pod-1"
    scratch.mkdir(parents=True)
    (scratch / "bundle").symlink_to(f"../../bundles/{digest_named('a')}")
    collect(volume, Policy(0))
    assert letters(volume) == "a"


def test_a_bundle_that_was_just_found_stays(volume: Path) -> None:
    assert Store(volume).use(digest_named("a"))
    make(volume, "e")
    collect(volume, Policy(0))
    assert letters(volume) == "ae"
    age(volume / "bundles" / digest_named("a"), (GRACE + 60) / DAY)
    collect(volume, Policy(0))
    assert letters(volume) == "e"


def test_a_dry_run_says_the_same_and_changes_nothing(volume: Path) -> None:
    attach(volume, "ended", "a", days=30)
    attach(volume, "lives", "b", days=30)
    forgotten = volume / "bundles" / f".partial-{digest_named('e')}-pod-3"
    forgotten.mkdir()
    age(forgotten, 1)
    before = {path: path.lstat().st_mtime_ns for path in volume.rglob("*")}
    policy = Policy(0, living=frozenset({"lives"}))
    told = collect(volume, policy, dry_run=True)
    assert {path: path.lstat().st_mtime_ns for path in volume.rglob("*")} == before
    assert told == collect(volume, policy)
    assert [bundle.digest[0] for bundle in told.bundles] == ["a", "c", "d"]
    assert [pod.uid for pod in told.pods] == ["ended"]
    assert [each.maker for each in told.unfinished] == ["pod-3"]


def test_forgotten_makers_go_and_living_ones_stay(volume: Path) -> None:
    old, young = (volume / "bundles" / f".partial-{digest_named('e')}-{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(9000))
    age(old, 1)
    assert [each.maker for each in collect(volume, Policy()).unfinished] == ["old"]
    assert remains(volume) == [young]


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        (Policy(), {"new", "old", "older"}),  # nobody knows: everyone counts
        (Policy(pod_lifetime=20 * DAY), {"new", "old"}),
        (Policy(pod_lifetime=60), {"new"}),  # a folder younger than an hour counts whatever was promised
        (Policy(living=frozenset({"older"})), {"new", "older"}),  # new: younger than the list may be
        (Policy(living=frozenset({"older"}), pod_lifetime=20 * DAY), {"new", "older"}),
    ],
)
def test_pods_count_until_somebody_who_knows_says_otherwise(policy: Policy, left: set[str], volume: Path) -> None:
    attach(volume, "new", "a")
    attach(volume, "old", "b", days=10)
    attach(volume, "older", "c", days=30)
    collect(volume, policy)
    assert {path.name for path in (volume / "pods").iterdir()} == left


def test_what_an_ended_pod_used_can_be_evicted(volume: Path) -> None:
    attach(volume, "ended", "a", days=30)
    collect(volume, Policy(0, pod_lifetime=7 * DAY))
    assert letters(volume) == ""


def test_what_a_killed_loader_began_for_a_pod_goes(volume: Path) -> None:
    scratch = volume / "pods" / ".partial-pod-1"
    scratch.mkdir(parents=True)
    collect(volume, Policy())
    assert scratch.exists()
    age(scratch, 1)
    collect(volume, Policy(living=frozenset({"pod-1"})))
    assert remains(volume) == []


def test_named_bundles_are_removed(volume: Path) -> None:
    assert [bundle.digest[0] for bundle in discard(volume, [digest_named("d"), digest_named("b")])] == ["d", "b"]
    assert letters(volume) == "ac"
    assert remains(volume) == []


def test_of_unknown_and_used_bundles_nothing_is_removed(volume: Path) -> None:
    with pytest.raises(CheckpointNotFoundError) as unknown:
        discard(volume, [digest_named("a"), digest_named("e")])
    for letter in "abcd":
        assert digest_named(letter) in unknown.value.remedy
    attach(volume, "pod-1", "b")
    with pytest.raises(BundleInUseError, match="in use by pod pod-1"):
        discard(volume, [digest_named("a"), digest_named("b")])
    assert letters(volume) == "abcd"
    discard(volume, [digest_named("b")], force=True)
    assert letters(volume) == "acd"


def test_the_loader_tells_its_log(volume: Path, caplog: pytest.LogCaptureFixture) -> None:
    attach(volume, "pod-1", "d")
    attach(volume, "gone", "c", days=40)
    with caplog.at_level(logging.INFO, "preheat"):
        keep_within(volume, Policy(1, pod_lifetime=30 * DAY))
    assert caplog.messages[0] == f"evicted bundle {'a' * 32}, 100.9 kB: the longest unused beyond the limit"
    assert caplog.messages[-2] == "removed the folders of 1 pod that ended"
    assert caplog.messages[-1].startswith("the bundles have 100.9 kB, the limit is 1 B: the rest is in use")
    assert letters(volume) == "d"


def test_a_volume_that_refuses_is_told_and_nothing_else(volume: Path, caplog: pytest.LogCaptureFixture) -> None:
    (volume / "pods").symlink_to(volume / "bundles")
    keep_within(volume, Policy(0))
    assert "old bundles could not be removed" in caplog.text
    assert letters(volume) == "abcd"


def fill(path: Path) -> None:
    with path.open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_can_be_emptied(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path / "small"], check=False).returncode:
        pytest.skip("may not mount")
    try:
        make(tmp_path / "small", "a", days=1)
        fill(tmp_path / "small" / "filler")
        assert [bundle.digest[0] for bundle in collect(tmp_path / "small", Policy(0)).bundles] == ["a"]
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)
