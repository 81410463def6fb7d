"""The error tree.

    KoraError
    |- ConfigError            a setting is missing, unknown or bad; the process does not start
    |- StorageError           the database did not do what was asked
    |  |- StorageUnavailable  transient: nothing was accepted, try again
    |  `- OutcomeUnknown      the connection was lost around a commit: look the item up before trying again
    `- RequestError           a caller's request cannot be served (the web layer turns it into RFC 9457)
       |- InvalidRequest      400: not JSON, wrong shape of the whole body
       |- Unauthenticated     401
       |- Forbidden           403
       |- NotFound            404: unknown, or another tenant's
       |- Conflict            409: the row changed since the person saw it
       `- TooManyRequests     429

Outcomes of the domain (a blocked command, a lost race) are values, never exceptions.
"""

from typing import Any


class KoraError(Exception):
    """Root of every error that this package raises on purpose."""

    permanent = True
    """Whether the same call would fail again; loops back off and retry only when this is False."""


class ConfigError(KoraError):
    """The environment does not describe a process that may start."""


class StorageError(KoraError):
    """The database did not do what was asked."""


class StorageUnavailable(StorageError):
    """Nothing was written; the same call may succeed later."""

    permanent = False


class OutcomeUnknown(StorageError):
    """The transaction may or may not have been committed."""

    permanent = False


class RequestError(KoraError):
    """A request that cannot be served as asked; `detail` is written for the person who reads it."""

    status = 400
    title = "Bad request"

    def __init__(self, detail: str, *, errors: list[dict[str, str]] | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []
        self.retry_after_s = retry_after_s
        self.extra: dict[str, Any] = {}
        """Further members of the problem document, such as the fresh state behind a 409."""


class InvalidRequest(RequestError):
    """The body as a whole cannot be read."""


class Unauthenticated(RequestError):
    """No key or session, or one that is not valid any more."""

    status = 401
    title = "Not authenticated"


class Forbidden(RequestError):
    """Known caller, but not allowed to do this."""

    status = 403
    title = "Forbidden"


class NotFound(RequestError):
    """Unknown, or not visible to this caller."""

    status = 404
    title = "Not found"


class Conflict(RequestError):
    """The resource changed since the caller looked; nothing was done."""

    status = 409
    title = "Conflict"


class PayloadTooLarge(RequestError):
    """Body over the limit; nothing was read beyond it."""

    status = 413
    title = "Payload too large"


class TooManyRequests(RequestError):
    """Over a rate or queue limit; nothing was accepted."""

    status = 429
    title = "Too many requests"
