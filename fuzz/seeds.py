"""Where fuzzing begins: small real files, made anew each time by torch, safetensors and Preheat itself."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import safetensors.torch
import torch
from formats.samples import Call, Member, checkpoint_of, pickled, saved, saved_before_1_6, tensor_call, zip_of

from preheat.bundle.manifest import Left, Manifest, Pipeline, SourceFacts, TensorFacts, Totals


def trees() -> Iterator[Any]:
    """What people save: raw and wrapped state dicts, training state, views, tied and odd tensors."""
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    yield {"layer.weight": weight, "layer.bias": torch.zeros(2, dtype=torch.bfloat16), "step": torch.tensor(3)}
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    yield {"model_state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7, "name": "run"}
    yield {
        "state_dict": OrderedDict(a=weight, tied=weight, view=weight.T, part=weight[1:, :2], empty=torch.empty(0, 4)),
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": {"lr": 1e-3, "betas": (0.9, 0.95), "none": None, "flags": [True, False], 3: float("inf")},
        "loops": {"fit": {"seen": {1, 2}, "blob": b"\0\1", "number": 1 << 70, "complex": 1 + 2j}},
    }
    yield {
        "model": {
            "half": weight.half(),
            "byte": torch.ones(3, dtype=torch.uint8),
            "c": torch.ones(1, dtype=torch.cfloat),
        }
    }


def modules() -> Iterator[Any]:
    """Whole pickled modules, which the shape of the file does not tell from any other object."""
    yield torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    yield {"model": torch.nn.Embedding(2, 2), "epoch": 1}


def torch_files() -> Iterator[bytes]:
    """Zip files as torch writes them, and as others might."""
    for tree in (*trees(), *modules()):
        yield saved(tree)
    yield checkpoint_of(pickled({"a": tensor_call()}), {"0": bytes(16)})
    yield zip_of(
        [Member("a/data.pkl", pickled({"a": tensor_call(strides=(0,))})), Member("a/data/0", bytes(16))], zip64=False
    )


def torch_files_before_1_6() -> Iterator[bytes]:
    """Files of five pickles and bare storages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tree in (*trees(), *modules()):
            yield saved_before_1_6(tree)


def safetensors_files() -> Iterator[bytes]:
    """Whole files after an even byte, headers alone after an odd one."""
    for tensors in (
        {"a": torch.ones(2, 3), "b.weight": torch.zeros(4, dtype=torch.bfloat16), "scalar": torch.tensor(1)},
        {"empty": torch.empty(0, 2), "half": torch.ones(3, dtype=torch.float16)},
    ):
        content = safetensors.torch.save(tensors, {"format": "pt"})
        length = int.from_bytes(content[:8], "little")
        yield b"\0" + content
        yield b"\1" + content[8 : 8 + length]


def zip_files() -> Iterator[bytes]:
    """Directories with and without ZIP64 records, by torch and by Python."""
    yield from torch_files()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/ä.txt", b"x" * 40)
    yield buffer.getvalue()


def torch_pickles() -> Iterator[bytes]:
    """The pickles inside torch's zip files, and some of a test's own."""
    for content in torch_files():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    for protocol in range(2, 6):
        yield pickled({"state_dict": {"w": tensor_call()}, "x": Call(print, ("y",))}, protocol)


def pickles() -> Iterator[bytes]:
    """Pickles of every protocol, with and without names."""
    shared = ["text", b"bytes", 1.5, -1, 1 << 40, None, True, 1 + 2j]
    for protocol in range(6):
        yield pickle.dumps({"list": shared, "again": shared, "tuple": (1, (2,)), "set": {1}, 5: {}}, protocol)
        yield pickle.dumps({"list": shared[:5], "bytearray": bytearray(b"a") if protocol == 5 else [()]}, protocol)
    yield from torch_pickles()


def manifests() -> Iterator[bytes]:
    """A manifest with everything in it, and one with as little as there can be."""
    source = SourceFacts("s3://bucket/key", 'etag:"a"', 100, "torch-zip", "lightning")
    yield Manifest("0" * 64, Pipeline("a", "b", 1), source, {}, {}).to_json().encode()
    tensors = {"a": TensorFacts("F32", (2, 3), 7), "b": TensorFacts("BF16", ())}
    full = Manifest(
        "1" * 64,
        Pipeline(),
        source,
        {"model.safetensors": 8192},
        tensors,
        {"tied": "a"},
        totals=Totals(2, 7, 30, 40),
        left=Left(1, 4, ("collections.Counter",), 1, 8),
        state={"epoch": 3, "lr": {"$float": "nan"}},
        stages=({"freezing": {"layers": ["a"]}},),
        seconds={"transfer": 0.5},
    )
    yield full.to_json().encode()


def training_documents() -> Iterator[bytes]:
    """Training states with every spelling there is."""
    optimizer = {"state": {"$items": [[0, {"exp_avg": {"$opaque": "a.B"}}]]}, "param_groups": [{"lr": 0.1}]}
    odd = [{"$tuple": [1, {"$float": "inf"}]}, {"$set": [1, "a"]}, {"$counter": {"$items": [[3, 1]]}}]
    yield json.dumps({"optimizer_states": [optimizer], "lr_schedulers": [{"last_epoch": 1}], "epoch": 3}).encode()
    yield json.dumps({"odd": [*odd, {"$bytes": "YQ=="}, {"$complex": [1, 2]}], "no": {"$tensor": "such"}}).encode()


def s3_listings() -> Iterator[bytes]:
    """A page of a run in several layouts, and the last one of an empty prefix."""
    names = ("m_cp=E1_U10_S40_model.th", "m_ema=0.9_cp=latest_model.th", "upt.a_cp=last_optim.th", "checkpoint-5/a.bin")
    names += ("m_cp=best.loss.json", "m_cp=E2_U2_S2/manifest.json", "epoch=3-val_loss=0.1-v1.ckpt", "ckpt_epoch_3.pth")
    keys = "".join(
        f"<Contents><Key>runs/{name}</Key><LastModified>2026-03-01T10:00:00.000Z</LastModified><Size>7</Size></Contents>"
        for name in names
    )
    head = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>"
    yield f"{head}<EncodingType>url</EncodingType>{more}{keys}</ListBucketResult>".encode()
    yield f"{head}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()


def pointers() -> Iterator[bytes]:
    """Of both layouts that have them."""
    yield b'{"checkpoint": "m_cp=E1_U10_S40", "value": 0.5}'
    yield b'{"best_model_checkpoint": "/out/checkpoint-500", "global_step": 900}'


def http_answers() -> Iterator[bytes]:
    """Status and headers of good and of odd servers."""
    yield b'206\r\nContent-Range: bytes 8-15/64\r\nContent-Length: 8\r\nETag: "a"\r\n\r\n'
    yield b'200\r\nContent-Length: 64\r\nETag: W/"a"\r\nLast-Modified: Sat, 01 Nov 2025 10:00:00 GMT\r\n\r\n'
    yield b"503\r\nRetry-After: Sat, 01 Nov 2025 10:00:00 GMT\r\nContent-Encoding: gzip\r\n\r\n"
    yield b"429\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield b"302\r\nLocation: https://other.example.org:8443/a%20b?X-Amz-Signature=1&b=c\r\n\r\n"
    yield (
        b"206\r\nContent-Range: bytes 0-7/"
        + b"9" * 4400
        + b"\r\nRetry-After: 1 Jan 99999999999999 0:00:00 +0000\r\n\r\n"
    )
    yield b"301\r\nLocation: ../b\r\nContent-Range: bytes */64\r\n\r\n"
