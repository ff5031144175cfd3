"""Which worker runs what, where several run tests at the same time (`-n 3`)."""

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ALONE = ("tests/hosts/",)
"""Whose tests meet on what a machine has but once: one worker runs all of them."""


class OneModuleEach(LoadScopeScheduling):
    """A module is run by one worker, in its order: its tests share what is dear to start.

    The first worker begins with the slowest kind of tests, the others with the fastest: so one waits while another
    computes, and what is left for the end is short. Needs `--no-loadscope-reorder`.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return next((place for place in ALONE if module.startswith(place)), module)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is self.nodes[0]:
            slowest = _kind(next(reversed(self.workqueue)))
            self.workqueue.move_to_end(next(unit for unit in self.workqueue if _kind(unit) == slowest), last=False)
        super()._assign_work_unit(node)


def _kind(unit: str) -> str:
    return unit.rpartition("/")[0]
