"""The folder that a training process finds on its PYTHONPATH: this package, its entry points, one loose module.

The loader's image holds the same, made when the image is built; here it is made of what is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import preheat
from preheat.errors import CheckpointConfigError


@contextmanager
def shim_folder() -> Iterator[Path]:
    """A folder of links, to be copied while the block runs; raises CheckpointConfigError when nothing is installed."""
    package = Path(preheat.__file__).parent
    with TemporaryDirectory(prefix="preheat-shim-") as name:
        folder = Path(name)
        (folder / "preheat").symlink_to(package)
        (folder / "sitecustomize.py").symlink_to(package / "shim" / "pod" / "sitecustomize.py")
        information = folder / f"preheat-{preheat.__version__}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: preheat\nVersion: {preheat.__version__}\n")
        (information / "entry_points.txt").write_text(_entry_points())
        yield folder


def _entry_points() -> str:
    """Frameworks find the shim by them."""
    try:
        return distribution("preheat").read_text("entry_points.txt") or ""
    except PackageNotFoundError:
        raise CheckpointConfigError(
            "preheat is not installed, so frameworks would not find it", remedy="Install it with pip"
        ) from None
