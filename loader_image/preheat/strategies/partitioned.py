"""Models of DeepSpeed, told without importing it: what of their parameters and optimizers is where no name leads."""

from __future__ import annotations

from typing import Any


def is_partitioned(parameter: Any) -> bool:
    """Whether ZeRO-3 has the parameter's values: those that a process sees for a while are copies."""
    return hasattr(parameter, "ds_numel")


def is_overwritten(parameter: Any) -> bool:
    """Whether an optimizer of ZeRO, of any stage, has a copy from which it writes the parameter anew in each step."""
    return is_partitioned(parameter) or hasattr(parameter, "_hp_mapping")


def is_deepspeeds(each: Any) -> bool:
    """Whether an engine, or an optimizer, is DeepSpeed's own, or stands for one as Accelerate's does."""
    packages = {kind.__module__.partition(".")[0] for kind in type(each).__mro__}
    return "deepspeed" in packages or type(each).__name__ == "DeepSpeedOptimizerWrapper"
