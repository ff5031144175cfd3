"""What can be asked of the state, and the changes that each request becomes.

A command is planned on the newest state by the primary: `plan` checks every rule and returns the changes, or raises a
`Refusal`. Nothing here is run by a node that only applies.
"""

from provider.core.commands.audit import LATE_MAX_MS, REFUSALS_MAX, RecordRefusals
from provider.core.commands.base import (
    ALWAYS,
    Command,
    Plan,
    Precondition,
    Ref,
    check_name,
    delete,
    need,
    put,
    with_status,
)
from provider.core.commands.members import (
    NODES_MAX,
    EnrollAgent,
    JoinNode,
    RegisterInstance,
    RemoveAgent,
    RemoveNode,
    removed_key,
)
from provider.core.commands.reports import RecordStatus, StatusUpdate
from provider.core.commands.settings import (
    CLUSTER_ID,
    KNOWN_SETTINGS,
    LOG_SIZES,
    LOG_SIZES_DEFAULT,
    SETTING_MAX_BYTES,
    SETTING_MAX_DEPTH,
    USER_SETTINGS,
    DeleteSetting,
    NumberSetting,
    PutSetting,
    depth,
)
from provider.core.commands.tokens import DeleteToken, PutToken, is_expired, one_time_token
from provider.core.commands.wishes import PENDING, DeleteWish, PutWish, WishKind

__all__ = [
    "ALWAYS",
    "CLUSTER_ID",
    "KNOWN_SETTINGS",
    "LATE_MAX_MS",
    "LOG_SIZES",
    "LOG_SIZES_DEFAULT",
    "NODES_MAX",
    "PENDING",
    "REFUSALS_MAX",
    "SETTING_MAX_BYTES",
    "SETTING_MAX_DEPTH",
    "USER_SETTINGS",
    "Command",
    "DeleteSetting",
    "DeleteToken",
    "DeleteWish",
    "EnrollAgent",
    "JoinNode",
    "NumberSetting",
    "Plan",
    "Precondition",
    "PutSetting",
    "PutToken",
    "PutWish",
    "RecordRefusals",
    "RecordStatus",
    "Ref",
    "RegisterInstance",
    "RemoveAgent",
    "RemoveNode",
    "StatusUpdate",
    "WishKind",
    "check_name",
    "delete",
    "depth",
    "is_expired",
    "need",
    "one_time_token",
    "put",
    "removed_key",
    "with_status",
]
