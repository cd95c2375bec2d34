"""Labelled pods, created without pause."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from charts.releases import DEADLINE_SECONDS, until
from lightkube import ApiError, Client
from lightkube.models.core_v1 import Container, PodSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod


class Load:
    """Labelled pods, created without pause and on trial; what became of each."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self.namespace = client, namespace
        labels = {"preheat.dev/pipeline": "finetune"}
        metadata = ObjectMeta(generateName="trial-", namespace=namespace, labels=labels)
        self._pod = Pod(metadata=metadata, spec=PodSpec(containers=[Container(name="train", image="t")]))
        self._end = threading.Event()
        self.answers: list[str] = []

    def once(self) -> str:
        try:
            made = self._client.create(self._pod, dry_run=True)
        except ApiError as error:
            return str(error)
        assert made.spec is not None
        names = [container.name for container in made.spec.initContainers or ()]
        return "injected" if names == ["preheat-loader"] else f"init containers {names}"

    def create_one(self) -> str:
        """A pod that stays; its name."""
        made = self._client.create(self._pod)
        assert made.metadata is not None
        return str(made.metadata.name)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._keep_on)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def _keep_on(self) -> None:
        while not self._end.is_set():
            self.answers.append(self.once())

    def gets_through(self) -> None:
        """Endpoints and webhook configurations are news to the API server for a moment."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (answer := self.once()) != "injected":
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)

    def goes_on(self) -> None:
        enough = len(self.answers) + 20
        until(lambda: len(self.answers) > enough, "the load stands still")
