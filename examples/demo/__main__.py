"""`make demo`: tell the whole story on a real cluster, and leave the cluster for the user to play with."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from demo import story, transcript
from demo.install import install
from demo.platforms import PLATFORMS


def main() -> None:
    """Run every chapter; exit 1 with the reason when one does not end as it should."""
    started = time.monotonic()
    name = sys.argv[1] if len(sys.argv) > 1 else "local"
    if name not in PLATFORMS:
        raise SystemExit(f"CLUSTER={name} is not one of {', '.join(PLATFORMS)}")
    platform = PLATFORMS[name]()
    work = Path(os.environ.get("PREHEAT_CACHE", Path.home() / ".cache" / "preheat")) / "demo"
    try:
        install(platform)
        story.set_up_namespace(platform)
        checkpoint = story.make_checkpoint(platform, work)
        story.compare(story.finetune(platform), checkpoint)
        story.show_status(platform)
        story.second_pod(platform)
        story.unknown_pipeline(platform)
        story.wrong_key(platform)
        story.truncated(platform, work)
    except story.StoryError as error:
        raise SystemExit(f"the demo stopped: {error}") from error
    transcript.chapter(f"Done in {time.monotonic() - started:.0f} s; the cluster is yours")
    transcript.command(platform.how_to_play())
    transcript.command("kubectl get ckpt -n preheat-demo")
    transcript.command("make demo-clean   # removes every trace")


if __name__ == "__main__":
    main()
