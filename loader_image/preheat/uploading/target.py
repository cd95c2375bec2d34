"""Where something is uploaded to: what the other end can do, whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from preheat.uploading.content import Content, Passed

#: What is compared after a file has arrived: a checksum, for which stores that tell none have to send the file back, or
#: only its size.
Verify = Literal["checksum", "size"]


class Target(Protocol):
    """A folder at the other end. Names are paths below it. What was put is verified, or an error is raised."""

    uri: str  # where, without credentials; ends in a slash

    def put(self, content: Content, name: str, advance: Passed) -> bool:
        """Send the file, whole or not at all; False: it was there already, byte by byte.

        What an earlier attempt has sent of it is not sent again where the other end can take parts. `advance` is told
        of its bytes, and takes some back when they have to go again.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """A document; None when it is not there."""
        ...

    def write(self, name: str, document: bytes) -> None:
        """Replace a document, whole or not at all."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; nothing there is fine."""
        ...

    def close(self) -> None:
        """Give back connections; what is under way in other threads ends in an error."""
        ...
