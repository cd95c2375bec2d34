import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from sources import hub_server
from sources.fault_server import FaultServer
from sources.hub_server import HubServer, Repo

from preheat import inspect
from preheat.blob import Blob, Patience
from preheat.bundle.store import Store
from preheat.errors import AccessDeniedError, CheckpointConfigError, CheckpointNotFoundError, CheckpointSourceError
from preheat.prepare import prepare
from preheat.sources import attempts
from preheat.sources.hugging_face import HuggingFaceSource
from preheat.spec import parse
from preheat.spelling import build, spell

WEIGHTS = {"a": torch.arange(40_000.0), "b": torch.ones(30_000)}
WHOLE = save(WEIGHTS)
SHARDED = {
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode(),
    "1.safetensors": save({"a": WEIGHTS["a"]}),
    "2.safetensors": save({"b": WEIGHTS["b"]}),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server.running() as running:
        running.repos["org/model"] = Repo()
        running.repos["org/model"].commit(
            {"README.md": b"#", "model.safetensors": WHOLE, "old/model.safetensors": WHOLE}
        )
        yield running


def source(hub: HubServer, repo: str = "org/model", **more: Any) -> HuggingFaceSource:
    return HuggingFaceSource(repo, endpoint=hub.origin, **more)


def opened(hub: HubServer, repo: str = "org/model", **more: Any) -> Blob:
    return source(hub, repo, **more).open(Patience(1, 5))


def test_a_file_is_read_by_ranges_at_the_commit_of_its_revision(hub: HubServer) -> None:
    commit = hub.repos["org/model"].revisions["main"]
    blob = opened(hub, file="model.safetensors")
    assert (blob.uri, blob.version, blob.size) == (
        "hf://org/model@main/model.safetensors",
        f"commit:{commit}",
        len(WHOLE),
    )
    hub.repos["org/model"].commit({"model.safetensors": WHOLE[::-1]})  # a push meanwhile
    assert blob.read(20_000, 200_000) == WHOLE[20_000:200_000]
    blob.close()
    newer = opened(hub, file="model.safetensors")
    assert newer.version != f"commit:{commit}"
    newer.close()


def test_tags_pull_requests_and_commits_are_revisions(hub: HubServer) -> None:
    repo = hub.repos["org/model"]
    for name in ("v1.0", "refs/pr/7"):
        commit = repo.commit({"model.safetensors": WHOLE}, name)
        blob = opened(hub, revision=name)
        assert blob.version == f"commit:{commit}"
        blob.close()
    blob = opened(hub, revision=commit)
    assert blob.version == f"commit:{commit}"
    blob.close()


def test_the_token_stays_with_the_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/model"].private = True
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN + "\n")
    blob = opened(hub, secret_ref="hub")
    assert blob.read(0, len(WHOLE)) == WHOLE
    assert not hub.content.leaked
    blob.close()


def test_an_expired_signed_url_is_asked_for_again(hub: HubServer) -> None:
    blob = opened(hub, file="model.safetensors")
    assert blob.read(20_000, 30_000) == WHOLE[20_000:30_000]
    hub.expire()
    assert blob.read(30_000, 40_000) == WHOLE[30_000:40_000]
    blob.close()


def test_a_repository_is_a_checkpoint(hub: HubServer) -> None:
    assert set(inspect(source(hub)).tensors) == {"a", "b"}
    assert set(inspect(source(hub, file="old/")).tensors) == {"a", "b"}
    hub.repos["org/model"].commit(SHARDED)
    found = inspect(source(hub))
    assert (set(found.tensors), found.uri) == ({"a", "b"}, "hf://org/model@main/")
    assert set(inspect(source(hub, file="model.safetensors.index.json")).tensors) == {"a", "b"}


def test_a_bundle_is_made_of_a_sharded_repository(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repos["org/model"].commit(SHARDED)
    spec = parse({"stages": [{"huggingFace": {"repo": "org/model", "endpoint": hub.origin}}]})
    outcome = prepare(spec, Store(tmp_path), "test")
    assert outcome.manifest.totals.tensors == 2
    source = outcome.manifest.source
    assert (source.uri, source.version) == ("hf://org/model@main/", f"commit:{commit}")


@pytest.mark.parametrize(
    ("pattern", "uri"),
    [
        ("*.fp16.safetensors", "step-20.fp16.safetensors"),
        ("runs/step-?/*.safetensors", "runs/step-1/model.safetensors"),
        ("runs/s*/", "runs/step-1/model.safetensors"),
        ("a[1].safetensors", "a[1].safetensors"),
    ],
)
def test_a_pattern_names_the_one_file_or_folder_that_matches(hub: HubServer, pattern: str, uri: str) -> None:
    names = ("step-20.fp16.safetensors", "step-20.safetensors", "runs/step-1/model.safetensors", "a[1].safetensors")
    hub.repos["org/model"].commit(dict.fromkeys(names, WHOLE))
    found = inspect(source(hub, file=pattern))
    assert (set(found.tensors), found.uri) == ({"a", "b"}, f"hf://org/model@main/{uri}")


def test_a_pattern_that_matches_none_or_several_says_so(hub: HubServer) -> None:
    hub.repos["org/model"].commit({"b.safetensors": WHOLE, "a.safetensors": WHOLE, "runs/a.safetensors": WHOLE})
    with pytest.raises(CheckpointConfigError, match=r"2 files of org/model at commit \w{12} match .*: a\.safet.*, b\."):
        opened(hub, file="*.safetensors")
    with pytest.raises(CheckpointNotFoundError, match=r"no file of org/model at commit \w{12} matches '\*\.bin'"):
        opened(hub, file="*.bin")


def test_what_is_beside_a_file_is_at_the_same_revision() -> None:
    found = HuggingFaceSource("org/model", revision="v1", file="run/model.safetensors").beside("model.sig")
    assert found == HuggingFaceSource("org/model", revision="v1", file="run/model.sig")
    assert HuggingFaceSource("org/model").beside("model.sig").uri == "hf://org/model@main/model.sig"


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [
        ({"revision": "v9"}, CheckpointNotFoundError, "org/model has no revision 'v9'. Check `revision`"),
        ({"file": "nothing.bin"}, CheckpointNotFoundError, "org/model has no file 'nothing.bin' at commit "),
        ({"file": "empty/"}, CheckpointNotFoundError, "has none of the files that a checkpoint begins with"),
        ({"repo": "org/typo"}, AccessDeniedError, "there is no repository 'org/typo' at http://127.0.0.1"),
        ({"repo": "org/private"}, AccessDeniedError, "or it is private. Check `repo`; for a private one name a Secret"),
        (
            {"repo": "org/gated"},
            AccessDeniedError,
            "org/gated is gated: its owners want to know who reads it. Accept its",
        ),
    ],
    ids=str,
)
def test_a_refusal_says_what_to_do(hub: HubServer, asked: dict[str, str], kind: type[Exception], says: str) -> None:
    for name in ("gated", "private"):
        hub.repos[f"org/{name}"] = Repo(**{name: True})
        hub.repos[f"org/{name}"].commit({"model.safetensors": WHOLE})
    with pytest.raises(kind) as caught:
        opened(hub, **asked)
    assert type(caught.value) is kind
    assert says in str(caught.value)


def test_a_token_that_is_wrong_or_missing_is_named_unquoted(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AccessDeniedError, match="Secret 'hub' is missing, or its key HF_TOKEN is empty"):
        opened(hub, secret_ref="hub")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AccessDeniedError, match=r"refuses the token for org/model: 401.*expired") as caught:
        opened(hub)
    assert "hf_wrong" not in str(caught.value)
    opened(hub, anonymous=True).close()
    monkeypatch.setenv("HF_TOKEN", "hf_wr\nong")
    with pytest.raises(CheckpointConfigError, match="bare token in the Secret's key `HF_TOKEN`"):
        opened(hub)


def test_the_endpoint_of_the_environment_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.origin + "/")
    blob = HuggingFaceSource("org/model").open(Patience(0, 5))
    assert blob.size == len(WHOLE)
    blob.close()


def test_a_server_that_is_no_hub_is_named() -> None:
    with FaultServer().running() as server:
        for content in (
            b"<html>",
            b"[]",
            b'{"sha": "../../x"}',
            b'{"sha": "abcdef0", "siblings": [1]}',
            b"[" * 100_000,
        ):
            server.serve("/api/models/org/model/revision/main", content)
            with pytest.raises(CheckpointSourceError, match=r"does not answer as a Hub does\. Check `endpoint`"):
                HuggingFaceSource("org/model", endpoint=server.origin).open(Patience(0, 5))


def test_an_answer_that_is_cut_short_is_asked_for_again() -> None:
    with FaultServer().running() as server:
        answer = json.dumps({"sha": "abcdef0", "siblings": [{"rfilename": "model.safetensors"}]}).encode()
        server.serve("/api/models/org/model/revision/main", answer)
        server.serve("/org/model/resolve/abcdef0/model.safetensors", WHOLE)
        server.next(cut_after=10)
        server.next(status=503)
        blob = HuggingFaceSource("org/model", endpoint=server.origin).open(Patience(2, 5))
        assert blob.read(0, 100) == WHOLE[:100]
        blob.close()


@pytest.mark.parametrize("file", ["../x", "/x", "a//b", "a/./b", "a/../b"])
def test_a_path_that_leads_out_of_the_repository_is_refused(file: str) -> None:
    with pytest.raises(CheckpointConfigError, match="is no path in the repository"):
        HuggingFaceSource("org/model", file=file)


def test_both_spellings_build_it() -> None:
    found = build({"huggingFace": {"repo": "org/model", "secretRef": "hub"}})
    assert found == HuggingFaceSource("org/model", secret_ref="hub")
    assert spell(found) == {"huggingFace": {"repo": "org/model", "secretRef": "hub"}}
    assert build({"_target_": "preheat.sources.HuggingFaceSource", "repo": "org/model", "secret_ref": "hub"}) == found


def test_the_hubs_client_library_is_not_imported(hub: HubServer) -> None:
    code = (
        "import sys; from preheat.blob import Patience; from preheat.sources import HuggingFaceSource;"
        f"HuggingFaceSource('org/model', endpoint={hub.origin!r}).open(Patience()).close();"
        "assert not {'huggingface_hub', 'requests', 'numpy', 'fsspec'} & set(sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
