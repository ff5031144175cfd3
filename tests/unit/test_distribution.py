"""`provider`, `agent` and `shared` are common names: what is imported under them must be ours, and ours alone."""

import importlib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("provider", "agent", "shared")


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_brings_a_package_of_this_name(name: str) -> None:
    assert set(packages_distributions()[name]) == {"bellwether"}


@pytest.mark.parametrize("name", OURS)
def test_what_is_imported_is_this_source_tree(name: str) -> None:
    module = importlib.import_module(name)
    assert [Path(path) for path in module.__path__] == [REPOSITORY / name]


def test_tests_and_deploy_are_not_packaged() -> None:
    packaged = {name for name, owners in packages_distributions().items() if "bellwether" in owners}
    assert {name for name in packaged if not name.startswith("__editable__")} == set(OURS)
