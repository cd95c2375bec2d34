import json
from pathlib import Path
from typing import Any

import pytest
from cache.volumes import age, attach, digest_named, letters, make
from typer.testing import CliRunner

from preheat import collect_bundles, list_bundles, remove_bundles
from preheat.cli import app
from preheat.errors import BundleInUseError, CheckpointConfigError


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    make(tmp_path, "a", days=3)
    make(tmp_path, "b", days=2)
    attach(tmp_path, "pod-1", "b", days=1)
    (tmp_path / "bundles" / f".partial-{digest_named('e')}-pod-2").mkdir()
    return tmp_path


def answer(volume: Path, *arguments: str, code: int = 0, given: str | None = None) -> Any:
    result = CliRunner().invoke(app, ["cache", *arguments, "--volume", str(volume), "--json"], input=given)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def said(volume: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["cache", *arguments, "--volume", str(volume)], env={"COLUMNS": "80"})
    assert result.exit_code == code, result.output
    return result.output


def test_ls_answers_a_program_and_a_person(volume: Path) -> None:
    found = answer(volume, "ls")
    assert [bundle["digest"][0] for bundle in found["bundles"]] == ["a", "b"]
    assert found["bundles"][0]["source"] == {"uri": "s3://models/a.ckpt", "version": "etag:a"}
    assert (found["bundles"][1]["tensors"], found["bundles"][1]["pods"]) == (1, ["pod-1"])
    assert found["bytes"] == sum(bundle["bytes"] for bundle in found["bundles"]) > 200_000
    assert [each["maker"] for each in found["unfinished"]] == ["pod-2"]
    text = said(volume, "ls")
    for shown in (digest_named("a"), "s3://models/b.ckpt", "etag:b", "3 d", "by pod-2", "2 bundles, 201.7 kB; 1 pod"):
        assert shown in text
    assert max(map(len, text.splitlines())) <= 80


def test_ls_shows_damage_and_changes_nothing(volume: Path) -> None:
    (volume / "bundles" / digest_named("a") / "manifest.json").write_text("{")
    before = {path: path.lstat().st_mtime_ns for path in volume.rglob("*")}
    assert answer(volume, "ls")["bundles"][0]["source"] is None
    assert "damaged" in said(volume, "ls")
    assert {path: path.lstat().st_mtime_ns for path in volume.rglob("*")} == before


def test_rm_removes_what_is_named_and_not_what_is_used(volume: Path) -> None:
    assert answer(volume, "rm", digest_named("c"), code=11)["remedy"].startswith("There are: aaaa")
    assert answer(volume, "rm", digest_named("a"), digest_named("b"), code=52)["reason"] == "InUse"
    assert letters(volume) == "ab"
    assert answer(volume, "rm", digest_named("a"))["bundles"] == [digest_named("a")]
    assert said(volume, "rm", digest_named("b"), "--force").startswith(f"removed {digest_named('b')}")
    assert letters(volume) == ""


def test_gc_says_what_it_would_do_and_then_does_it(volume: Path) -> None:
    planned = answer(volume, "gc", "--max-size", "0", "--dry-run")
    assert (planned["outcome"], [bundle["digest"][0] for bundle in planned["bundles"]]) == ("planned", ["a"])
    assert letters(volume) == "ab"
    text = said(volume, "gc", "--max-size", "0")
    assert f"removed bundle {digest_named('a')}, 100.9 kB" in text
    assert "1 bundle, 100.9 kB left" in text
    assert "more than 0 B: 1 bundle belong to pods" in " ".join(text.split())
    assert letters(volume) == "b"


def test_gc_believes_a_list_of_living_pods(volume: Path) -> None:
    assert answer(volume, "gc", "--max-size", "0", "--living-pods", "-", given="pod-1 pod-9\n")["pods"] == []
    done = answer(volume, "gc", "--max-size", "0", "--living-pods", "-", given="pod-9\n")
    assert (done["pods"], done["bytes"], done["maxBytes"]) == (["pod-1"], 0, 0)


def test_gc_believes_how_long_a_pod_may_live(volume: Path) -> None:
    assert answer(volume, "gc", "--pod-lifetime", "2d")["pods"] == []
    assert answer(volume, "gc", "--pod-lifetime", "12h")["pods"] == ["pod-1"]
    assert letters(volume) == "ab"


def test_what_waits_for_the_next_loader_is_shown_and_forgotten_in_the_end(volume: Path) -> None:
    left = volume / "bundles" / f".partial-left-{digest_named('e')}-0123456789abcdef"
    left.mkdir()
    assert "left for the next loader" in said(volume, "ls")
    assert answer(volume, "gc")["unfinished"] == []
    age(left, 1)
    assert f"removed what a loader began of {digest_named('e')}" in said(volume, "gc")
    assert not left.exists()


def test_gc_removes_what_was_forgotten(volume: Path) -> None:
    age(volume / "bundles" / f".partial-{digest_named('e')}-pod-2", 1)
    assert f"removed what pod-2 began of {digest_named('e')}" in said(volume, "gc")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-size", "20 apples"), "'20 apples' is not a size"),
        (("--pod-lifetime", "soon"), "'soon' is not a time"),
        (("--living-pods", "-"), "the list of living pods is empty"),
        (("--living-pods", "no-such-file"), "no-such-file cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...], message: str, volume: Path) -> None:
    assert message in answer(volume, "gc", *arguments, code=2)["message"]
    assert letters(volume) == "ab"


@pytest.mark.parametrize("verb", ["ls", "gc", "rm"])
def test_a_folder_without_bundles_is_named(verb: str, tmp_path: Path) -> None:
    found = answer(tmp_path, verb, *(["x"] * (verb == "rm")), code=2)
    assert found["message"] == f"{tmp_path} holds no bundles: it has no folder `bundles`"


def test_the_verbs_are_functions(volume: Path) -> None:
    assert [bundle.digest[0] for bundle in list_bundles(str(volume)).bundles] == ["a", "b"]
    with pytest.raises(CheckpointConfigError, match="the list of living pods is empty"):
        collect_bundles(volume, max_size=0, living=[])
    planned = collect_bundles(volume, max_size=0, dry_run=True)
    assert ([bundle.digest[0] for bundle in planned.bundles], letters(volume)) == (["a"], "ab")
    with pytest.raises(BundleInUseError):
        remove_bundles(volume, [digest_named("b")])
    collect_bundles(volume, max_size=0, living=["pod-9"])
    assert letters(volume) == ""


def test_the_volume_can_come_from_the_environment(volume: Path) -> None:
    result = CliRunner().invoke(app, ["cache", "ls"], env={"PREHEAT_VOLUME": str(volume)})
    assert result.exit_code == 0
