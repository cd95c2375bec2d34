"""Reading what Helm renders and `make crds` writes: hundreds of kilobytes of YAML, so by libyaml."""

from __future__ import annotations

from typing import Any

import yaml


def documents(text: str) -> list[dict[str, Any]]:
    """The documents of a text, without empty ones."""
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]
