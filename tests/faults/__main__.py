"""Random bad days: `tests/faults/run --seed S --runs N`.

Each run draws a plan from its seed, carries it out under load on a cluster of its own on this machine, heals, and
checks what clients, nodes and agents saw. Run n has the seed S + n. A seed that fails is printed with the command that
replays it, and everything about it is kept.
"""

import argparse
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster.process import ProcessFailed

from tests.faults import disks, links, report
from tests.faults.day import Outcome, live
from tests.faults.members import Options
from tests.faults.plan import KINDS, STEPS, Plan, draw, possible
from tests.faults.plant import Plant
from tests.faults.variants import VARIANTS
from tests.faults.workload import PAUSE_S
from tests.support.proxies import proxied

SHOWN = 20
SEEDS = 10**6
ANEW_EVERY = 10
"""Runs; and after the last one. Then all nodes are started anew, and asked what is on their disks."""


def main() -> int:
    asked = _arguments()
    if asked.report:
        print(report.summary(report.kept(asked.report)))
        return 0
    links.loopback()
    options = _options(asked)
    root = Path(tempfile.mkdtemp(prefix="bellwether-faults-"))
    runs: list[report.Done] = []
    failed: Outcome | None = None
    try:
        with _planted(root, options, proxy=asked.proxy) as (plant, doors):
            for number in range(asked.runs):
                last = number == asked.runs - 1 or number % ANEW_EVERY == ANEW_EVERY - 1
                outcome = _one_day(plant, asked, asked.seed + number, doors, restarted=last)
                runs.append(report.done(outcome))
                if asked.results is not None:
                    report.keep(asked.results, runs[-1])
                if outcome.violations:
                    failed = outcome
                    break
    except ProcessFailed as error:
        print(f"the cluster did not start: {error}", *error.__notes__, sep="\n", file=sys.stderr)
        return 2
    print(report.summary(runs))
    if failed is not None:
        _keep(failed, root, _replay(failed.plan, asked))
    elif not asked.keep:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if failed is not None else 0


def _options(asked: argparse.Namespace) -> Options:
    """What is asked for, as far as this machine can; says what it cannot."""
    no_disks, no_links = disks.available(), links.available()
    if no_disks is not None:
        print(f"Without full disks and power cuts: {no_disks}.")
    if no_links is not None:
        print(f"Without cut links: {no_links}.")
    too_prompt = no_links or links.too_prompt()
    if no_links is None and too_prompt is not None:
        print(f"Without slow links: {too_prompt}.")
    return Options(
        asked.variant,
        asked.agents,
        disks=no_disks is None,
        links=no_links is None,
        slow=too_prompt is None,
        brokers=asked.brokers,
        store=asked.store,
    )


@contextmanager
def _planted(root: Path, options: Options, *, proxy: bool) -> Iterator[tuple[Plant, dict[str, str]]]:
    """A plant that runs, and who may be asked besides its nodes."""
    plant = Plant(root / "c", options)
    try:
        try:
            plant.up()
        except ProcessFailed as error:
            error.add_note(plant.failure_report())
            raise
        if not proxy:
            yield plant, {}
            return
        with proxied(plant, root, ends_tls=False) as before:
            yield plant, {"proxy": before.any_node}
    finally:
        plant.end()


def _one_day(plant: Plant, asked: argparse.Namespace, seed: int, doors: dict[str, str], *, restarted: bool) -> Outcome:
    if asked.plan is not None:
        plan = Plan.read(asked.plan)
    else:
        kinds = asked.kinds.split(",") if asked.kinds else possible(plant.there)
        plan = draw(seed, seconds=asked.seconds, kinds=kinds, steps=asked.steps)
    if asked.verbose:
        print(*plan.steps, sep="\n", flush=True)
    outcome = live(plant, plan, doors=doors, pause_s=asked.pause, restarted=restarted)
    print(report.line(outcome), flush=True)
    if asked.verbose:
        print(report.story(outcome), flush=True)
    return outcome


def _arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="tests/faults/run", description=__doc__.partition("\n")[0])
    options.add_argument(
        "--seed", type=int, default=secrets.randbelow(SEEDS), help="of the first run; default: a new one"
    )
    options.add_argument("--runs", type=int, default=1, help="how many, one after the other on one cluster (default 1)")
    options.add_argument("--seconds", type=float, default=8.0, help="length of each plan (default 8)")
    options.add_argument(
        "--steps", type=_steps, default=STEPS, help=f"faults in each plan, as 1-3 (default {STEPS[0]}-{STEPS[1]})"
    )
    options.add_argument("--kinds", help=f"only these faults, with commas between them: {', '.join(KINDS)}")
    options.add_argument("--plan", type=Path, help="a plan that was kept, instead of one that is drawn")
    options.add_argument("--agents", type=int, default=1, help="agents, each with a MariaDB server (default 1)")
    options.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="one, or one on each host (default 1)")
    options.add_argument(
        "--store",
        choices=("sqlite", "mariadb", "shared"),
        default="sqlite",
        help="what providers keep their state in; shared: all of them in one MariaDB database",
    )
    options.add_argument(
        "--pause",
        type=float,
        default=PAUSE_S,
        help=f"seconds that a client pauses at most (default {PAUSE_S}); more, where many runs share a machine",
    )
    options.add_argument("--proxy", action="store_true", help="clients ask through HAProxy as well")
    options.add_argument("--variant", choices=VARIANTS, help="a system with one rule broken, to try the checker")
    options.add_argument("--results", type=Path, help="a file to which a line is added for each run")
    options.add_argument("--report", type=Path, nargs="+", help="only sum up such files, of several sittings")
    options.add_argument("--keep", action="store_true", help="leave logs and data, whatever comes")
    options.add_argument("--verbose", action="store_true", help="print each plan, and what was done when")
    return options.parse_args()


def _steps(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    if int(least) > int(most or least):
        raise ValueError(text)
    return int(least), int(most or least)


def _replay(plan: Plan, asked: argparse.Namespace) -> str:
    words = [
        "tests/faults/run",
        f"--seed {plan.seed}",
        f"--seconds {plan.seconds:g}",
        "--steps {}-{}".format(*asked.steps),
    ]
    words += [f"--{name} '{value}'" for name in ("kinds", "variant") if (value := getattr(asked, name)) is not None]
    words += [f"--store {asked.store}"] if asked.store != "sqlite" else []
    words += [f"--brokers {asked.brokers}"] if asked.brokers != 1 else []
    words += [f"--pause {asked.pause:g}"] if asked.pause != PAUSE_S else []
    return " ".join([*words, "--proxy"] if asked.proxy else words)


def _keep(failed: Outcome, root: Path, replay: str) -> None:
    failed.history.write(root / "history.json")
    failed.plan.write(root / "plan.json")
    print(f"seed {failed.plan.seed} FAILED. Its plan:", *failed.plan.steps, sep="\n  ")
    print(report.story(failed))
    print(*failed.violations[:SHOWN], sep="\n")
    if len(failed.violations) > SHOWN:
        print(f"… and {len(failed.violations) - SHOWN} more")
    print(f"History, plan and logs are in {root}. To try it again, on a new cluster:\n  {replay}")
    print(f"or, also with another version:\n  tests/faults/run --plan {root / 'plan.json'}")


if __name__ == "__main__":
    sys.exit(main())
