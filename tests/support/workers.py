"""Which worker runs what, where several run tests at the same time (`-n 2`)."""

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

ALONE = ("tests/hosts/",)
"""Whose tests meet on what a machine has but once: one worker runs all of them."""


class OneModuleEach(LoadScopeScheduling):
    """A module is run by one worker, in its order: its tests share what is dear to start.

    The first worker begins with the slow modules, the others with the fast ones: so one waits while another computes,
    and what is left for the end is short. Needs `--no-loadscope-reorder`.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return next((place for place in ALONE if module.startswith(place)), module)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)
