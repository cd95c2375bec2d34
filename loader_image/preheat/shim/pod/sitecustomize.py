"""The first thing that Python runs in a training container: installs Preheat's shim, then runs the user's own.

Standard library only, and old syntax only: whatever Python the image has must be able to read this file. A process that
does not import torch is never disturbed. One that does fails clearly when the shim cannot do its work, because the
alternative is a training that silently starts from random weights. PREHEAT_SHIM=off switches everything off. A Python
that is too old is passed over where `onFailure: Continue` says so, loudly.
"""

# Annotations would be new syntax.
# mypy: ignore-errors

import os
import sys


def _install():
    mode = os.environ.get("PREHEAT_SHIM") or "off"
    if mode == "off":
        return
    if mode not in ("auto", "manual"):
        raise RuntimeError(f"PREHEAT_SHIM is {mode!r}, not auto, manual or off")
    if sys.version_info < (3, 11):  # noqa: UP036 - the Python of whatever image this is
        raise _TooOldError("Python {}.{} is too old, 3.11 is the oldest that works".format(*sys.version_info))
    from preheat.shim import import_hook

    import_hook.install()


class _TooOldError(RuntimeError):
    """Nothing of Preheat can run here."""


class _RefuseTorch:
    """Lets every import of torch fail, and nothing else."""

    def __init__(self, reason):
        self.reason = reason

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise ImportError(self.reason)


class _TellAtTorch:
    """Says why there is no checkpoint when somebody looks for torch, as the report of a process that goes on does."""

    def __init__(self, reason):
        self.reason = reason

    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            import json

            sys.meta_path.remove(self)
            failure = {"reason": "UnsupportedVersion", "message": self.reason, "remedy": "Use a newer Python"}
            line = json.dumps({"strategy": "none", "failure": failure})
            loud = f"NO CHECKPOINT, the training goes on from its initial weights: UnsupportedVersion: {self.reason}"
            sys.stderr.write(f"Preheat: {loud}\npreheat.report {line}\n")


def _leave(error):
    """Let nobody find what cannot run here, such as a framework that asks for our callbacks."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if not _same(entry, here)]
    sys.meta_path.insert(0, _TellAtTorch(str(error)))


def _run_theirs():
    """Import the `sitecustomize` that Python would have found without us; what it raises is theirs to see."""
    ours, here = sys.modules.pop(__name__), os.path.dirname(os.path.abspath(__file__))
    position = next((i for i, entry in enumerate(sys.path) if _same(entry, here)), None)
    sys.path[:] = [entry for entry in sys.path if not _same(entry, here)]
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != __name__:
            raise
        sys.modules[__name__] = ours
    finally:
        if position is not None:
            sys.path.insert(position, here)


def _same(entry, here):
    return os.path.abspath(entry or ".") == here


try:
    _install()
except Exception as error:  # the shim's door: whatever it is, this process may be none of ours
    if isinstance(error, _TooOldError) and os.environ.get("PREHEAT_ON_FAILURE") == "Continue":
        _leave(error)
    else:
        _reason = f"Preheat's shim could not start: {error}. Set PREHEAT_SHIM=off to train without it"
        sys.stderr.write(_reason + "\n")
        sys.meta_path.insert(0, _RefuseTorch(_reason))

if __name__ == "sitecustomize":
    _run_theirs()
