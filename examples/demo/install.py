"""Install the chart of this checkout, with images built from it."""

from __future__ import annotations

from pathlib import Path

from demo import transcript
from demo.platforms import Platform

CHART = Path(__file__).parents[2] / "charts" / "preheat"


def install(platform: Platform) -> None:
    """Build both images, `helm upgrade --install`, wait until webhook and controller are ready."""
    transcript.chapter("Preheat, from this checkout")
    operator, loader = platform.images()
    values = [*image_values("image", operator), *image_values("loader.image", loader)]
    transcript.command(f"helm upgrade --install preheat charts/preheat -n preheat-system {' '.join(values)}")
    platform.helm(
        "upgrade", "--install", "preheat", str(CHART), "--namespace", "preheat-system", "--create-namespace",
        "--take-ownership", "--wait", "--timeout", "180s", *values,  # a CRD applied by hand before is taken over
    )  # fmt: skip
    transcript.command("kubectl get pods -n preheat-system", platform.kubectl("get", "pods", "-n", "preheat-system"))


def image_values(prefix: str, reference: str) -> list[str]:
    """`--set` arguments that point the chart at an image by repository and tag."""
    repository, _, tag = reference.rpartition(":")
    return ["--set", f"{prefix}.repository={repository}", "--set", f"{prefix}.tag={tag}"]
