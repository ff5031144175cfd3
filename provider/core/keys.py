"""What is remembered of writes that were done: their idempotency keys, and what they were answered with."""

import json
from dataclasses import dataclass

from provider.core.documents import Document, canonical

KEYS_MAX = 100_000
KEYS_MAX_AGE_MS = 24 * 3600 * 1000
KEYS_MAX_CHARS = 128 * 1024 * 1024
"""Of all keys' texts. A key keeps the document that it was answered with: with the largest settings, 100,000 of them
would take 6 GB, on every node at the same time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write was answered with: kept, so that the same idempotency key gets it again."""

    status: int
    revision: int
    document: Document | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One idempotency key that was used. `number` orders them, `at` (Unix ms) says when."""

    number: int
    at: int
    key: str
    request: str
    answer: Answer

    @property
    def text(self) -> str:
        """Canonical JSON: what the store keeps and the digest covers."""
        document = self.answer.document
        shown = document.text if document is not None else None
        return canonical(
            [self.number, self.at, self.key, self.request, self.answer.status, self.answer.revision, shown]
        )

    @classmethod
    def from_text(cls, text: str) -> "KeyRecord":
        """The key whose `text` this is."""
        number, at, key, request, status, revision, shown = json.loads(text)
        document = Document.from_text(shown) if shown is not None else None
        return cls(number, at, key, request, Answer(status, revision, document))


def scoped_key(principal: str, key: str) -> str:
    """Keys belong to whoever used them: two users may choose the same one. The length tells where the name ends: both
    parts may contain anything."""
    return f"{len(principal)} {principal} {key}"
