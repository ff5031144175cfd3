"""The one error tree. What crosses an interface is a `BellwetherError`; everything else is a bug.

    BellwetherError
    ├── Refusal            the request cannot be done as asked; asking again changes nothing
    │   ├── Invalid            422  the body, a name or a parameter is wrong
    │   ├── Unauthenticated    401  no token, or one that is not (any longer) good
    │   │   └── TokenRefused       the same, and what was wrong with the token
    │   ├── Forbidden          403  the token's role may not do this
    │   ├── NotFound           404
    │   ├── Conflict           409  the document is in a state that rules this out
    │   ├── Refused            409  a rule of the cluster says no; the detail says which
    │   ├── Expired            410  history that far back is no longer kept
    │   ├── StaleRevision      412  `If-Match` named another revision
    │   ├── TooSlow            408  (retryable)
    │   ├── TooLarge           413
    │   └── TooManyRequests    429  (retryable)
    └── Unavailable        nothing was done; the same request may succeed later (503)
        ├── NoPrimary              no primary could be reached in time
        ├── LogUnavailable         the log cannot be written or read
        ├── Behind                 this node has not yet read as far as asked
        ├── DiskFull               this node's store, or the broker, is out of space
        └── OutcomeUnknown     504  it may have happened, or may yet: ask again with the same key

Each carries what a caller needs to act: `code` (stable, for programs), `status` (HTTP), `retryable`,
and a message for people that says what happened, why, and what to do.
"""

from typing import ClassVar


class BellwetherError(Exception):
    """Base of everything that is raised on purpose."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Refusal(BellwetherError):
    """The request cannot be done as asked."""


class Invalid(Refusal):
    code, status = "invalid", 422


class Unauthenticated(Refusal):
    code, status = "unauthenticated", 401


TOKEN_NOT_GOOD = "this token is not good (any longer)"  # noqa: S105 - words
"""What whoever shows an unknown, wrong or expired token is told."""


class TokenRefused(Unauthenticated):
    """`reason` is one of a few words, for counting: what the detail does not tell whoever has not the secret."""

    def __init__(self, detail: str, *, reason: str, token_id: str) -> None:
        super().__init__(detail)
        self.reason, self.token_id = reason, token_id


class Forbidden(Refusal):
    code, status = "forbidden", 403


class NotFound(Refusal):
    code, status = "not_found", 404


class Conflict(Refusal):
    code, status = "conflict", 409


class Refused(Refusal):
    code, status = "refused", 409


class Expired(Refusal):
    code, status = "expired", 410


class StaleRevision(Refusal):
    code, status = "stale_revision", 412


class TooLarge(Refusal):
    code, status = "too_large", 413


class TooSlow(Refusal):
    code, status, retryable = "too_slow", 408, True


class TooManyRequests(Refusal):
    """`retry_after_s` is how many seconds to wait before asking again makes sense."""

    code, status, retryable = "too_many_requests", 429, True

    def __init__(self, detail: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Unavailable(BellwetherError):
    """Nothing was done; the same request may succeed later."""

    status, retryable = 503, True


class NoPrimary(Unavailable):
    code = "no_primary"


class LogUnavailable(Unavailable):
    code = "log_unavailable"


class Behind(Unavailable):
    code = "behind"


class DiskFull(Unavailable):
    code = "disk_full"


class OutcomeUnknown(Unavailable):
    code, status = "outcome_unknown", 504
