import os
import time
from pathlib import Path

from uploading.checkpoints_to_send import point, save

from preheat.uploading.finished import Rest, is_one, units_in

ONE, TWO = "net_cp=E1_U10_S100", "net_cp=E2_U20_S200"


def names(root: Path, rest: Rest | None = None, below: str = "") -> list[str]:
    return [unit.name for unit in units_in(root, (rest or Rest(0)).look, below)]


def test_a_manifest_comes_last_and_pointers_after_all_checkpoints(tmp_path: Path) -> None:
    home = tmp_path / "exp" / "checkpoints"
    save(home, TWO), save(home, ONE, zzz=b"last by name")
    point(home, "latest", TWO)
    units = units_in(tmp_path, Rest(0).look)
    assert [unit.name for unit in units] == [
        f"exp/checkpoints/{ONE}",
        f"exp/checkpoints/{TWO}",
        "exp/checkpoints/net_cp=latest.json",
    ]
    assert [entry.name for entry in units[0].files] == ["model.safetensors", "state.json", "zzz", "manifest.json"]


def test_what_is_being_saved_is_not_looked_at(tmp_path: Path) -> None:
    save(tmp_path, f".{ONE}.partial-1234")
    (save(tmp_path, TWO) / "manifest.json").unlink()
    (tmp_path / ".preheat-starts").mkdir()
    (tmp_path / ".preheat-starts" / "a.json").write_text("{}")
    (tmp_path / "epoch=1.ckpt.tmp").write_bytes(b"half")
    os.symlink("/etc/hostname", tmp_path / "link.ckpt")
    assert names(tmp_path) == []


def test_files_of_other_programs_wait_until_all_of_a_checkpoint_rests(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "trainer_state.json", "config.json"):
        (folder / name).write_bytes(b"x" * 100)
    (tmp_path / "epoch=1-step=5.ckpt").write_bytes(b"x")
    rest = Rest(60)
    assert names(tmp_path, rest) == []
    aged = time.time() - 100
    for path in [*folder.iterdir(), tmp_path / "epoch=1-step=5.ckpt"]:
        os.utime(path, (aged, aged))
    (folder / "optimizer.pt").write_bytes(b"still growing")
    assert names(tmp_path, Rest(60)) == ["epoch=1-step=5.ckpt"]
    os.utime(folder / "optimizer.pt", (aged, aged))
    assert sorted(names(tmp_path, Rest(60))) == ["checkpoint-500/", "epoch=1-step=5.ckpt"]
    [unit] = [unit for unit in units_in(tmp_path, Rest(60).look) if unit.name == "checkpoint-500/"]
    assert unit.files[-1].name == "trainer_state.json"  # by which others tell that it is there


def test_a_file_that_changes_between_two_looks_does_not_rest(tmp_path: Path) -> None:
    path, rest = tmp_path / "last.ckpt", Rest(0.01)
    path.write_bytes(b"one")
    future = time.time() + 1000  # a volume whose clock is wrong
    os.utime(path, (future, future))
    assert names(tmp_path, rest) == []
    time.sleep(0.02)
    assert names(tmp_path, rest) == ["last.ckpt"]
    path.write_bytes(b"other")
    os.utime(path, (future, future))
    assert names(tmp_path, rest) == []


def test_a_bundle_of_the_loader_and_a_foreign_manifest(tmp_path: Path) -> None:
    save(tmp_path, "0123456789abcdef0123456789abcdef")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "an app"}')
    units = units_in(tmp_path, Rest(0).look)
    assert [(unit.name, unit.manifest) for unit in units] == [
        ("0123456789abcdef0123456789abcdef", True),
        ("web/manifest.json", False),
    ]


def test_one_checkpoint_is_told_from_a_folder_of_them(tmp_path: Path) -> None:
    folder = save(tmp_path, ONE)
    save(tmp_path, TWO)
    assert is_one(folder)
    assert is_one(folder / "model.safetensors")
    assert not is_one(tmp_path)
    assert names(tmp_path, below=ONE) == [ONE]
