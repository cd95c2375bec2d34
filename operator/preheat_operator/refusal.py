"""What is said of a pod that cannot be given its checkpoint."""

from preheat.errors import CheckpointError


class PodRefusedError(CheckpointError):
    """The pod cannot be given its checkpoint as it is; the message says what its author can change.

    `reason` is the rule that `kubectl preheat explain` names, and what the webhook counts.
    """

    reason = "PodRefused"
