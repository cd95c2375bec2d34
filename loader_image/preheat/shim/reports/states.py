"""The states that a tensor of a report can be in: what each means, what it looks like at a terminal and on the page.

The one place to add a state to. Frozen is none: it is said beside them, because a frozen tensor may be loaded or not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """`style` is as rich names it, `light` and `dark` are colours of CSS on either paper."""

    meaning: str
    style: str
    light: str
    dark: str
    from_checkpoint: bool = False  # the tensor's values come from the checkpoint


#: In the order in which they are shown.
STATES = {
    "loaded": State("the checkpoint's values", "green", "#2f6db5", "#5a9be0", True),
    "cast": State("the checkpoint's values in another precision", "cyan", "#2aa198", "#3dbdb3", True),
    "resized": State("the checkpoint's values, bridged to another size", "bright_green", "#5b8c5a", "#86b985", True),
    "pruned": State("the checkpoint's values, some of them made zero", "blue", "#7f8c2b", "#aebc55", True),
    "added": State("not in the model before: what the pipeline put in", "bright_blue", "#c2548f", "#e38bb8"),
    "initial": State("the model's own initial values", "yellow", "#e0a100", "#e8b53a"),
    "reset": State("initial values, as the pipeline asks", "magenta", "#8e5bd0", "#b08ae6"),
    "skipped": State("in the checkpoint, and not loaded", "red", "#d64545", "#ec6d6d"),
}


def colours() -> str:
    """The rules of CSS for them all."""
    light = " ".join(f"--{name}: {state.light};" for name, state in STATES.items())
    dark = " ".join(f"--{name}: {state.dark};" for name, state in STATES.items())
    used = "\n".join(f".{name} {{ background-color: var(--{name}); }}" for name in STATES)
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{used}\n"
