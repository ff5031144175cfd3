"""What the roster wants done: by the hub, to the broker or the log."""

from dataclasses import dataclass

from provider.core.commands import RegisterInstance, RotateCredential, StatusUpdate, SwitchCredential


@dataclass(frozen=True, slots=True)
class SendAdvice:
    to: str


@dataclass(frozen=True, slots=True)
class SendDesired:
    to: str


@dataclass(frozen=True, slots=True)
class SendInquire:
    to: str


@dataclass(frozen=True, slots=True)
class SendBeat:
    """Tell all agents that the primary is here; see `shared.messages.Beat`."""

    interval_s: float
    spread_s: float


@dataclass(frozen=True, slots=True)
class Record:
    updates: tuple[StatusUpdate, ...]


@dataclass(frozen=True, slots=True)
class Register:
    command: RegisterInstance


@dataclass(frozen=True, slots=True)
class Change:
    """Have an agent's broker password changed, or take the one that it offers."""

    command: RotateCredential | SwitchCredential


@dataclass(frozen=True, slots=True)
class Warn:
    """Two programs speak under this agent's name."""

    agent: str


@dataclass(frozen=True, slots=True)
class SendPulse:
    """Tell the other nodes how this one is, without waiting for the next second."""


Instruction = SendPulse | SendAdvice | SendDesired | SendInquire | SendBeat | Record | Register | Change | Warn
