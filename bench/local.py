"""Local files: conversion beside `cp` and torch, and a loader that finds its work done."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from loader import CRC_AND_FINITE, CRC_ONLY, UNCHECKED, LoaderRuns
from processes import Run, measure, peak, rotate, seconds, spread
from results import Figure

CHECKPOINTS = 200  # of a run that is resumed

HERE = Path(__file__).parent


def conversion(runs: LoaderRuns, checkpoint: Path, repetitions: int) -> list[Figure]:
    """A local Lightning file with its optimizer's state -> weights as safetensors."""
    source = {"local": {"path": str(checkpoint)}}
    runs.fresh(source, CRC_ONLY)
    reference = runs.volume.parent / "reference.safetensors"
    shutil.copyfile(runs.weights(), reference)
    output = runs.volume.parent / "output.safetensors"

    def write_output(*command: Any) -> Run:
        output.unlink(missing_ok=True)
        return measure(command)

    peer = [sys.executable, HERE / "peer_torch.py", checkpoint, output]
    contenders = {
        "cp": lambda: write_output("cp", "--reflink=never", reference, output),
        "unchecked": lambda: runs.fresh(source, UNCHECKED),
        "crc": lambda: runs.fresh(source, CRC_ONLY),
        "crc and finite": lambda: runs.fresh(source, CRC_AND_FINITE),
        "torch.load + save_file": lambda: write_output(*peer),
        "torch.load(mmap) + save_file": lambda: write_output(*peer, "mmap"),
    }
    results = rotate(contenders, repetitions)
    size = reference.stat().st_size / 1e9
    floor = seconds(results["cp"])
    against = f"cp of {size:.2f} GB, {floor:.2f} s ({spread(results['cp'])})"
    goals = {"unchecked": "<= 1.3", "crc": "<= 1.6", "crc and finite": "<= 1.6"}
    figures = [
        Figure(f"conversion, {name}", seconds(found) / floor, f"x cp ({spread(found)})", against, goals.get(name))
        for name, found in results.items()
        if name != "cp"
    ]
    figures += [
        Figure(f"memory, {name}", peak(found), "MiB", goal="<= 64" if name in goals else None)
        for name, found in results.items()
        if name != "cp"
    ]
    for leftover in (reference, output):
        leftover.unlink()
    return figures


def warm_re_run(runs: LoaderRuns, checkpoint: Path, repetitions: int) -> list[Figure]:
    """The init container runs again: in the same pod, and in another pod on the same volume."""
    source = {"local": {"path": str(checkpoint)}}
    runs.fresh(source)
    contenders = {
        "the same pod": lambda: runs.run(source),
        "another pod on the volume": lambda: runs.run(source, pod="pod-2"),
    }
    results = rotate(contenders, repetitions)
    return [Figure(f"warm re-run, {name}", seconds(found), "s", goal="<= 1.0") for name, found in results.items()]


def resumption(runs: LoaderRuns, checkpoint: Path, output: Path, repetitions: int) -> list[Figure]:
    """A start that goes on from the newest of many checkpoints on a volume, beside one that finds its bundle."""
    measure([sys.executable, HERE / "save_run.py", output, str(CHECKPOINTS)])
    source = {"local": {"path": str(checkpoint)}}
    resume = {"from": {"local": {"path": str(output)}}}
    newest = max((output / "checkpoints").glob("*/model.safetensors"), key=lambda file: file.stat().st_mtime).parent
    files = [file for file in newest.iterdir() if file.suffix == ".safetensors"]
    runs.fresh(source)
    contenders = {
        "plain": lambda: runs.run(source, pod="pod-2"),
        "resumed": lambda: runs.run(source, pod="pod-3", resume=resume),
        "read": lambda: measure([sys.executable, HERE / "read_checked.py", *files]),
    }
    results = rotate(contenders, repetitions)
    took = {name: seconds(found) for name, found in results.items()}
    size = sum(file.stat().st_size for file in files)
    shutil.rmtree(output)
    against = f"plain start {took['plain']:.2f} s, reading {size / 1e6:.0f} MB with CRC-32 {took['read']:.2f} s"
    name = f"resumed from one of {CHECKPOINTS}, beyond start and transfer"
    return [Figure(name, took["resumed"] - took["plain"] - took["read"], "s", against, "<= 1.0")]


def folder(runs: LoaderRuns, checkpoint: Path, repetitions: int) -> list[Figure]:
    """A folder of torch.distributed.checkpoint -> weights as safetensors."""
    scratch, output = runs.volume.parent / "scratch.pt", runs.volume.parent / "output.safetensors"
    peer = [sys.executable, HERE / "peer_distributed.py", checkpoint, scratch, output]
    name = "dcp_to_torch_save + save_file"
    contenders = {
        "loader": lambda: runs.fresh({"local": {"path": str(checkpoint)}}),
        name: lambda: measure(peer),
    }
    results = rotate(contenders, repetitions)
    for leftover in (scratch, output):
        leftover.unlink()
    against = ", ".join(f"{who} {seconds(found):.2f} s ({spread(found)})" for who, found in results.items())
    return [
        Figure(
            "folder of 1 GiB, converted",
            seconds(results[name]) / seconds(results["loader"]),
            "x faster",
            against,
            ">= 6",
        ),
        Figure(
            "folder of 1 GiB, memory", peak(results["loader"]), "MiB", f"{name} {peak(results[name]):.0f} MiB", "<= 64"
        ),
    ]
