"""What is told of a wish: what became of it, or in what the server differs from one that is held. Pure."""

from agent.plan import Work
from agent.steps import (
    AlterDatabase,
    CreateAccount,
    CreateDatabase,
    DropAccount,
    DropDatabase,
    Grant,
    RenameAccount,
    Revoke,
    RevokeAll,
    RevokeRole,
    SetPassword,
    Step,
)
from shared.messages import Phase, Result


def result_of(work: Work, failure: str | None) -> Result:
    """`failure`: why its steps failed when they were last tried."""
    message = work.impossible or failure
    phase: Phase = "failed" if message else work.phase
    if work.hold:
        phase = "held" if message or work.steps else work.phase
        message = message or (differences(work.steps) if work.steps else None)
    return Result(name=work.name, version=work.version, phase=phase, message=message)


def differences(steps: tuple[Step, ...]) -> str:
    """What is otherwise on the server than these steps would have it, in words."""
    if any(isinstance(step, CreateDatabase | CreateAccount) for step in steps):
        return "the server does not have it"
    return "; ".join(_difference(step) for step in steps)


def _difference(step: Step) -> str:
    match step:
        case AlterDatabase():
            return "its character set or collation is another"
        case DropDatabase():
            return "it is there"
        case SetPassword():
            return "its password is another"
        case RenameAccount(_, host, _) | DropAccount(_, host):
            return f"it is at host {host}"
        case Grant(_, _, pattern, privileges):
            return f"it lacks {', '.join(privileges)} on {pattern}"
        case Revoke(_, _, pattern, privileges):
            return f"it has {', '.join(privileges)} on {pattern} besides"
        case RevokeAll():
            return "it has privileges that no wish can name (on tables, columns or routines, say)"
        case RevokeRole(_, _, role):
            return f"it has the role {role} besides"
        case _:
            return "the server does not have it"
