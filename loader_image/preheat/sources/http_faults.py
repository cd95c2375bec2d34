"""What sockets, TLS and parsers raise on the way to a server, as errors that say whether it is worth to ask again."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from preheat.errors import CheckpointSourceError, CheckpointTimeoutError
from preheat.sources.attempts import Interrupted


@contextmanager
def faults(uri: str) -> Iterator[None]:
    """Turn what sockets and parsers raise into Interrupted, or into an error that no further attempt mends."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise CheckpointSourceError(
            f"{uri}: the server's certificate is not trusted: {error.verify_message}",
            remedy="Give the authority's certificate in caBundle, or in a file named by SSL_CERT_FILE",
        ) from error
    except TimeoutError as error:
        raise Interrupted(
            CheckpointTimeoutError(f"{uri}: the server does not answer", remedy="Check the server and the network")
        ) from error
    except (OSError, HTTPException) as error:
        # An HTTPException may quote the URL with its signature.
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else ""
        raise Interrupted(
            CheckpointSourceError(
                f"{uri} cannot be reached: {reason or type(error).__name__}", remedy="Check address, port and network"
            ),
            # A kept connection that the server has closed meanwhile says nothing about the server.
            at_once=isinstance(error, (ConnectionResetError, BrokenPipeError)),
        ) from error
