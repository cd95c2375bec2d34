"""Names of linnaeus' checkpoints and its two buckets."""

from __future__ import annotations

from os.path import isabs
from typing import Any

from preheat.migrate.choices import FirstOfThatName
from preheat.migrate.migration import Draft
from preheat.migrate.places import secret
from preheat.migrate.settings import Settings
from preheat.migrate.traced import Traced, some

_PREFIX = "modelZoo/"
_NO_CACHE = "/path/to/checkpoints"
#: Nobody answers there, so that nothing is read from another service by mistake.
_NO_ENDPOINT = "https://s3.REGION.backblazeb2.com"


def named(settings: Settings, draft: Draft, name: Traced) -> Traced:
    """The source that linnaeus' resolver means: a path or URL is itself, a name is looked for."""
    if isabs(str(name)) or "://" in str(name):
        draft.choice = FirstOfThatName(str(name), "", False)
        return draft.place(name)
    return name.made({"named": parameters(settings, draft, name)})


def parameters(settings: Settings, draft: Draft, name: Traced) -> dict[str, Any]:
    """Of a `named` source."""
    cache = settings["ENV.INPUT.CACHE_DIR"]
    bucket = _bucket(settings, draft, "ENV.INPUT.BUCKET", settings["ENV.INPUT.BUCKET.PATH_PREFIX"])
    draft.choice = FirstOfThatName(str(name), str(cache or ""), bucket is not None)
    if cache is None and bucket is None:
        draft.remark(f"is looked for nowhere: give ENV.INPUT.CACHE_DIR=DIR; {_NO_CACHE} is linnaeus' own default", name)
        cache = name.made(_NO_CACHE)
    claimed = draft.place(cache).value["local"]["path"] if cache else None
    return some(name=name, cacheDir=claimed, bucket=bucket)


def output_bucket(settings: Settings, draft: Draft, own: Traced) -> Traced | None:
    """Where linnaeus sends what it has saved, as `upload` of the run's own folder."""
    names = [settings[f"EXPERIMENT.{part}"] for part in ("PROJECT", "GROUP", "NAME")]
    there = [each for each in names if each]
    key = there[0].made("/".join(map(str, there)) + "/checkpoints/", *there[1:]) if there else None
    to = _bucket(settings, draft, "ENV.OUTPUT.BUCKET", key)
    if to is None:
        return None
    if not isabs(str(own)):
        draft.remark("is a relative path, and `upload` wants the one that a pod's containers have", own)
        return None
    on = settings["ENV.OUTPUT.BUCKET.ENABLED"] or to
    draft.remark("sends finished checkpoints, where linnaeus mirrors its whole output with rclone sync", on)
    return on.made({"path": own, "to": to})


def _bucket(settings: Settings, draft: Draft, above: str, key: Traced | None) -> Traced | None:
    on = settings.on(f"{above}.ENABLED")
    bucket = settings.first(f"{above}.NAME", f"{above}.BUCKET")
    if on is None:
        return None
    if bucket is None:
        draft.remark("is on, and no bucket is named", on)
        return None
    ids = settings[f"{above}.APP_KEY_ID"], settings[f"{above}.APP_KEY"]
    s3 = some(
        bucket=bucket,
        key=key or on.made(_PREFIX),
        endpoint=_endpoint(settings, draft, above, on),
        secretRef=_secret(draft, above, *ids),
    )
    return on.made({"s3": s3})


def _endpoint(settings: Settings, draft: Draft, above: str, on: Traced) -> Traced:
    remote = settings[f"{above}.REMOTE"] or on
    if draft.answers.endpoint:
        return remote.made(draft.answers.endpoint)
    draft.remark(
        f"does not say at which address the bucket is, and {_NO_ENDPOINT} is none: look it up where the bucket is "
        "shown at Backblaze, or in rclone's configuration, and give --endpoint URL",
        remote,
    )
    return remote.made(_NO_ENDPOINT)


def _secret(draft: Draft, above: str, key_id: Traced | None, key: Traced | None) -> Traced | None:
    found = key_id or key
    if found is None:
        return None
    name = secret(f"linnaeus-{'output' if 'OUTPUT' in above else 'input'}")
    draft.remark(
        f"is a credential, and its value is not repeated. Make a Secret of it: kubectl create secret generic {name} "
        "--from-literal=AWS_ACCESS_KEY_ID=<APP_KEY_ID> --from-literal=AWS_SECRET_ACCESS_KEY=<APP_KEY>; then take it "
        "out of the file, and revoke a key that has been shared with it",
        key_id,
        key,
    )
    draft.settled |= {each.keys[0] for each in (key_id, key) if each}
    return found.made(name, key)
