"""The controller asks loaders, and servers that are none."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from loader.beacon_client import free_port

from preheat.beacon import UPLOADS_PATH, beacon
from preheat.progress import LogProgress
from preheat.uploading.account import Account as Upload
from preheat_operator.answering import Question
from preheat_operator.inquiry import PER_KEY, Inquiry, answer_of, session_for_pods
from preheat_operator.progress import LOADER_QUESTION, Progress
from preheat_operator.upload_account import UPLOAD_QUESTION

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
TOLD = {"phase": "transferring", "bytesDone": 5, "bytesTotal": 10, "bytesPerSecond": 1, "idleSeconds": 0.5}
Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answering: Answering) -> AsyncIterator[int]:
    """The port of a server that does with each connection what it is told."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answering(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def saying(*pieces: bytes, pause: float = 0) -> Answering:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return answer


def good(document: Any = TOLD) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def at(port: int) -> Question[Progress]:
    return replace(LOADER_QUESTION, port=port)


async def told_by(answering: Answering) -> Progress | None:
    async with serving(answering) as port, session_for_pods(patience=0.3) as session:
        return await answer_of(session, "127.0.0.1", at(port), "uid")


async def test_a_real_beacon_is_understood() -> None:
    progress, port = LogProgress(logging.getLogger("preheat.loader")), free_port()
    progress.start(1000)
    with beacon(port, progress.to_json):
        async with session_for_pods() as session:
            told = await answer_of(session, "127.0.0.1", at(port), "uid")
            again = await answer_of(session, "::1", at(port), "uid")
    assert told
    assert (told.phase, told.done, told.total) == ("transferring", 0, 1000)
    assert again is None or again.total == 1000, "where the machine has IPv6"


async def test_an_upload_answers_who_knows_its_pod() -> None:
    account, port = Upload("s3://b/", units=3), free_port()
    question = replace(UPLOAD_QUESTION, port=port)
    with beacon(port, account.brief, f"{UPLOADS_PATH}uid-a"):
        async with session_for_pods() as session:
            told = await answer_of(session, "127.0.0.1", question, "uid-a")
            assert told is not None
            assert (told.uploaded, told.complete) == (3, True)
            assert await answer_of(session, "127.0.0.1", question, "uid-b") is None


REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n"


async def test_a_redirect_is_not_followed() -> None:
    asked = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(good())

    async with serving(elsewhere) as port:
        assert await told_by(saying(REDIRECT % port)) is None
    assert asked == []


HOSTILE = {
    "huge": good({**TOLD, "more": "x" * LOADER_QUESTION.limit}),
    "endless": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 10_000_000,
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000_000,
    "a line without end": b"HTTP/1.1 200 " + b"O" * 1_000_000,
    "deep": good(b"[" * 2000),
    "packed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + good().removeprefix(b"HTTP/1.1 200 OK\r\n")[:-4],
    "no JSON": good(b"<html>"),
    "no text": good(b"\xff\xfe{}"),
    "a long number": good(b'{"phase": "reading", "bytesDone": ' + b"9" * 1900 + b"}"),
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an error": b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_is_no_answer_is_none(answer: bytes) -> None:
    assert await told_by(saying(answer)) is None


@pytest.mark.parametrize("pieces", [(b"", b""), tuple(bytes([b]) for b in good())], ids=["silent", "dripping"])
async def test_who_is_slow_is_left(pieces: tuple[bytes, ...]) -> None:
    began = time.monotonic()
    assert await told_by(saying(*pieces, pause=0.25)) is None
    assert time.monotonic() - began < 2


async def test_news_are_what_was_answered_since_and_only_of_pods_that_are_followed() -> None:
    documents, news = [TOLD, TOLD, {**TOLD, "bytesDone": 7}], list[str]()
    answers = iter(documents)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(good(next(answers, TOLD)))(reader, writer)

    async with serving(answer) as port, session_for_pods() as session:
        inquiry = Inquiry[str, Progress](at(port), news.append, clock=lambda: NOW)
        inquiry.follow("p", {"uid": "127.0.0.1", "gone": "127.0.0.2"})
        for _ in documents:
            await inquiry.ask(session)
        assert news == ["p", "p"]
        assert inquiry.last("p").time == "2026-05-04T12:00:00Z"
        assert {uid: each.done for uid, each in inquiry.last("p").answers.items()} == {"uid": 7}
        inquiry.follow("p", {"other": "127.0.0.1"})
        assert inquiry.last("p").answers == {}
        inquiry.follow("p", {})
        await inquiry.ask(session)
        assert news == ["p", "p"]


async def test_a_round_ends_in_time_and_asks_no_more_of_one_pipeline_than_it_should() -> None:
    asked = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()

    async with serving(silent) as port, session_for_pods() as session:
        inquiry = Inquiry[str, Progress](at(port), lambda key: None)
        inquiry.follow("p", {f"uid-{number:03}": "127.0.0.1" for number in range(4 * PER_KEY)})
        began = time.monotonic()
        await inquiry.ask(session, patience=0.3)
        assert time.monotonic() - began < 3
    assert 0 < asked <= PER_KEY
