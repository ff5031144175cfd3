"""Settings: a few of the cluster's own, and any that users keep under `user.`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from provider.core import documents as docs
from provider.core.commands.base import ALWAYS, Plan, Precondition, check_name, delete, need
from provider.core.entries import Change, sound
from provider.core.state import State
from shared.errors import Invalid, Refused, TooLarge

SETTING_MAX_BYTES = 64 * 1024
SETTING_MAX_DEPTH = 64
"""Less than `entries.JSON_MAX_DEPTH`, so that nothing on the way to the store and back meets a limit."""
USER_SETTINGS = "user."
REHEARSAL_SETTINGS = "rehearsal."
"""What `failover --operation rehearse` writes, and takes away again."""
FREE_SETTINGS = (USER_SETTINGS, REHEARSAL_SETTINGS)
"""Beginnings of keys that mean nothing to the cluster."""

CLUSTER_ID = "cluster.id"
LOG_SIZES = "cluster.log"
"""How much log is kept, and how long. Fixed when the log is begun: the broker refuses a node that declares it with
other figures. A log that was begun before there was `max_age_s` has none."""
CERTIFICATE_DAYS = "certificates.days"
CERTIFICATE_HOSTS = "cluster.certificate_hosts"
CLOCK_SKEW = "cluster.clock_skew_s"
CLOCK_SKEW_S = 2.0
"""Unless set."""
BACKUP_TO = "backup.to"
BACKUP_EVERY_H, BACKUP_EVERY_H_DEFAULT = "backup.every_h", 24.0
BACKUP_KEEP, BACKUP_KEEP_DEFAULT = "backup.keep", 30
BACKUP_NODE = "backup.node"
BACKUP_S3_ENDPOINT = "backup.s3_endpoint"
HOSTS_MAX = 16
"""More than these names make each handshake of each node longer for nothing."""
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)(\*\.)?({_LABEL}\.)*(?!\d+\Z){_LABEL}")
LOG_SIZES_DEFAULT: Mapping[str, int] = {
    "max_bytes": 2_000_000_000,
    "segment_bytes": 50_000_000,
    "max_age_s": 14 * 86_400,
}


@dataclass(frozen=True, slots=True)
class NumberSetting:
    """A setting of the cluster's own: a number above `above`, at most `most`."""

    most: int
    meaning: str
    above: float = 0

    def check(self, key: str, value: Any) -> None:
        """Raises `Invalid` where `value` is no such number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.above < value <= self.most:
            raise Invalid(f"{key}: a number above {self.above} and at most {self.most}: {self.meaning}")


@dataclass(frozen=True, slots=True)
class HostsSetting:
    """A setting of the cluster's own: host names and addresses."""

    meaning: str

    def check(self, key: str, value: Any) -> None:
        """Raises `Invalid` where `value` is no list of hosts."""
        if not isinstance(value, list) or len(value) > HOSTS_MAX or not all(_is_host(host) for host in value):
            raise Invalid(f"{key}: a list of at most {HOSTS_MAX} DNS names (ASCII) and addresses: {self.meaning}")


@dataclass(frozen=True, slots=True)
class TextSetting:
    """A setting of the cluster's own: a text of this form."""

    form: str
    meaning: str

    def check(self, key: str, value: Any) -> None:
        """Raises `Invalid` where `value` is no such text."""
        if not isinstance(value, str) or re.fullmatch(self.form, value) is None:
            raise Invalid(f"{key}: {self.meaning}")


def _is_host(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        ip_address(value)
    except ValueError:
        return _DNS_NAME.fullmatch(value) is not None
    return "%" not in value  # an address of one link only, which no certificate can hold


KNOWN_SETTINGS: Mapping[str, NumberSetting | HostsSetting | TextSetting] = {
    # Agents pulse every 2 s: with less than that each of them would go offline and online for ever, in the log.
    "agents.offline_after_s": NumberSetting(
        86_400, "seconds without a pulse until an agent counts as offline", above=3
    ),
    "agents.messages_per_s": NumberSetting(
        100_000, "messages that an agent may send a second; ten times as many at once"
    ),
    "agents.bytes_per_s": NumberSetting(
        1_000_000_000, "bytes that an agent may send a second; sixteen times as many at once", above=262_143
    ),
    "agents.password_days": NumberSetting(
        3_650, "days until an agent's broker password is changed; 0: never", above=-1
    ),
    # A broker reads its certificate again every two minutes: with less than an hour it would show one that has expired,
    # and nobody could come and set another number.
    CERTIFICATE_DAYS: NumberSetting(
        3_650, "days that a node's certificate is good for; it is renewed when a third of them is left", above=0.04
    ),
    CERTIFICATE_HOSTS: HostsSetting("what every node's certificate is for besides its own address"),
    # Idempotency keys are forgotten by the time in entries: nodes whose clocks differ by hours would forget too early.
    CLOCK_SKEW: NumberSetting(
        3_600, "seconds that a node's clock may differ from the primary's: more is refused at join, warned about later"
    ),
    BACKUP_TO: TextSetting(
        r"/[^\0-\x1f]{0,1000}|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\0-\x20?#]{0,500})?",
        "where backups are made by themselves: a directory's absolute path, or s3://bucket/prefix",
    ),
    BACKUP_EVERY_H: NumberSetting(8_784, "hours from one scheduled backup to the next", above=0.01),
    BACKUP_KEEP: NumberSetting(100_000, "how many scheduled backups are kept"),
    BACKUP_NODE: TextSetting(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", "the node that makes them; unset: the primary"),
    BACKUP_S3_ENDPOINT: TextSetting(r"https?://[^\s?#@]{1,300}", "address of an S3 storage that is not Amazon's"),
    "history.days": NumberSetting(3_650, "days that accepted entries are kept for events and audit"),
}


def depth(value: Any) -> int:
    """Levels of nesting of a JSON value. Iterative, so that no input can exhaust the stack."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, level = todo.pop()
        deepest = max(deepest, level)
        if isinstance(item, dict | list):
            todo.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


@dataclass(frozen=True, slots=True)
class PutSetting:
    key: str
    value: Any
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        check_name("setting", self.key, docs.SettingKey)
        text = self._checked()
        old = state.get("setting", self.key)
        self.when.check(f"setting {self.key!r}", old)
        # As text: to Python, 1, 1.0 and True are equal.
        if old is not None and docs.canonical(old.spec["value"]) == text:
            return Plan(200, ("setting", self.key))
        # Not through `put`: it leaves out nulls, and null is a value here.
        change = Change(kind="setting", id=self.key, spec={"value": self.value})
        return Plan(200 if old else 201, ("setting", self.key), (change,))

    def _checked(self) -> str:
        """The value's text."""
        if not self.key.startswith(FREE_SETTINGS):
            if self.key not in KNOWN_SETTINGS:
                known = ", ".join(sorted(KNOWN_SETTINGS))
                raise Invalid(f"there is no setting {self.key!r}; known: {known}; keys of your own begin with 'user.'")
            KNOWN_SETTINGS[self.key].check(self.key, self.value)
        if depth(self.value) > SETTING_MAX_DEPTH:
            raise Invalid(f"value: nested more than {SETTING_MAX_DEPTH} levels deep")
        if not sound(self.value):
            raise Invalid("value: NaN, infinity, lone surrogates and integers of thousands of digits cannot be kept")
        text = docs.canonical(self.value)
        size = len(text.encode())
        if size > SETTING_MAX_BYTES:
            raise TooLarge(f"value: {size} bytes as JSON; at most {SETTING_MAX_BYTES} are kept")
        return text


@dataclass(frozen=True, slots=True)
class DeleteSetting:
    key: str
    when: Precondition = ALWAYS

    def plan(self, state: State, now: int) -> Plan:
        document = need(state, "setting", self.key)
        if not self.key.startswith(FREE_SETTINGS) and self.key not in KNOWN_SETTINGS:
            raise Refused(f"{self.key} is kept by the cluster itself and cannot be deleted")
        self.when.check(f"setting {self.key!r}", document)
        return Plan(204, None, (delete("setting", self.key),))


def clock_skew_s(state: State) -> float:
    """Seconds that nodes' clocks may differ."""
    setting = state.get("setting", CLOCK_SKEW)
    return float(setting.spec["value"]) if setting is not None else CLOCK_SKEW_S


def more_hosts(state: State) -> tuple[str, ...]:
    """What every node's certificate is for besides its own address."""
    setting = state.get("setting", CERTIFICATE_HOSTS)
    return tuple(setting.spec["value"]) if setting is not None else ()
