"""`make bench-admission`: what an admission review takes, with a thousand pipelines.

Reviews straight to the webhook over TLS, at a steady rate and all at once, beside kopf's own admission server with the
same injection; then pods through a real API server, labelled and not, and hundreds at once while a replica is replaced.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path

from api_server import ApiServer, versions
from installation import NAMESPACE, SERVICE, installed, until_injected
from operator_bench import filled_server, options_of
from operator_process import OperatorProcess, operator, process, until_ready
from processes import measure
from results import Figure, conclude
from review_load import at_rate_and_at_once
from sending import Server
from servers import free_port
from through_api import labelled_and_not, replaced
from workload import PIPELINES

from cluster.commands import wait_until

HERE = Path(__file__).parent
PART = "admission"
#: Values of the chart's `injection` besides `webhook`.
POLICIES = ("policy",)


def main(words: Sequence[str] | None = None) -> None:
    """Measure; exit 1 when a goal is missed."""
    options = options_of(words, "make bench-admission", __doc__, (30, "of the steady rate"))
    with filled_server() as api:
        figures = [*_webhook(api, options.seconds), *_kopf(api, options.seconds), *_policies(api), *replaced(api)]
    conclude(
        {PART: figures}, "Admission, 1,000 pipelines (command: make bench-admission)", versions(), docs=options.docs
    )


def _webhook(api: ApiServer, seconds: int) -> Iterator[Figure]:
    port = free_port()
    with installed(api, port), operator(api, "webhook", PREHEAT_PORT=port) as webhook:
        yield _start("Preheat's webhook", webhook)
        secret = api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{SERVICE}-certificate")
        authority = api.folder / "webhook.pem"
        authority.write_bytes(b64decode(secret["data"]["ca.crt"]))
        server = Server(f"https://127.0.0.1:{port}", authority, f"{SERVICE}.{NAMESPACE}.svc")
        yield from at_rate_and_at_once("Preheat's webhook", api, webhook, server, seconds, goals=True)
        until_injected(api)
        yield from labelled_and_not(api, "webhook")


def _kopf(api: ApiServer, seconds: int) -> Iterator[Figure]:
    port, certificate, key = free_port(), api.folder / "kopf.pem", api.folder / "kopf.key"
    measure([sys.executable, HERE / "certificate.py", certificate, key])
    with process(api, [sys.executable, HERE / "admission_kopf.py", port, certificate, key, PIPELINES], "kopf") as kopf:
        yield _start("kopf's server", kopf)
        server = Server(f"https://127.0.0.1:{port}", certificate)
        yield from at_rate_and_at_once("kopf's server", api, kopf, server, seconds)


def _start(who: str, process: OperatorProcess) -> Figure:
    return Figure(f"{who}, start until ready", until_ready(process), "s", f"{process.processor:.1f} s of a core")


def _policies(api: ApiServer) -> Iterator[Figure]:
    """The other ways to inject; what they need of each pipeline the controller has written into its status before."""
    for injection in POLICIES:
        with operator(api, "controller", PREHEAT_INJECTION=injection, PREHEAT_CHECK="false") as controller:
            until_ready(controller)
            wait_until("every status is written", lambda: _writes(controller) >= PIPELINES, 300)
        with installed(api, 443, f"injection={injection}"):
            until_injected(api)
            yield from labelled_and_not(api, injection)


def _writes(controller: OperatorProcess) -> float:
    return controller.metric("preheat_status_writes_total")


if __name__ == "__main__":
    main()
