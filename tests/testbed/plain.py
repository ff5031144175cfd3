"""A Debian 13 that knows nothing of Bellwether, for what is installed on hosts that are there already.

It has a MariaDB server. Packages and libraries that an installer fetches lie in it: hosts of a bed reach no mirror.
"""

import hashlib
import inspect
import subprocess
import sys
from pathlib import Path

from tests.testbed import rootfs

PACKAGES = "systemd,systemd-sysv,dbus,udev,python3,libnss-myhostname,iproute2,procps,mariadb-server"
FETCHED = "rabbitmq-server python3-venv haproxy keepalived curl"
"""In apt's cache; apt-get update fails there, politely."""
WHEELS = "/srv/wheels"
SOURCE = "/srv/bellwether"
"""This repository, as far as installers need it."""
_NEEDED = ("deploy", "provider", "agent", "shared", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")

_BUILD = f"""
ROOT={rootfs.PROJECT}
. $ROOT/deploy/lib/setup.sh
. $ROOT/deploy/appliance/lib/base.sh
list=$(mktemp --suffix=.list)
trap 'rm -f "$list"' EXIT
machine_sources >"$list"
mmdebstrap --quiet --variant=minbase --include={PACKAGES} --skip=cleanup/apt/lists --dpkgopt=force-unsafe-io \
    trixie "$1" "$list"
chroot "$1" apt-get install -qq --download-only --no-install-recommends -y {FETCHED}
: >"$1/etc/machine-id"
"""


def layer() -> Path:
    """The directory. Made where it is not there yet, which takes minutes. Raises `BuildFailed`, `OSError`."""
    constraints = (rootfs.PROJECT / "constraints.txt").read_text()
    key = hashlib.sha256((inspect.getsource(sys.modules[__name__]) + constraints).encode()).hexdigest()[:32]
    made = rootfs.CACHE / f"plain-{key}"
    rootfs.make(made, _build)
    return made


def _build(directory: Path) -> None:
    rootfs.run(["bash", "-euo", "pipefail", "-c", _BUILD, "plain", str(directory)])
    wheels = directory / WHEELS.strip("/")
    wheels.mkdir(parents=True)
    version = subprocess.run(
        ["chroot", directory, "python3", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    needed = subprocess.run(
        [sys.executable, rootfs.PROJECT / "deploy/lib/requirements.py", "provider", "agent"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--only-binary=:all:"]
    options = ["--python-version", version, "--dest", str(wheels), "-c", str(rootfs.PROJECT / "constraints.txt")]
    rootfs.run([*pip, *options, "setuptools", *needed])


def source_into(root: Path) -> str:
    """A script that puts this repository into a host's root directory."""
    files = " ".join(str(rootfs.PROJECT / name) for name in _NEEDED)
    return f"rm -rf {root}{SOURCE} && mkdir -p {root}{SOURCE} && cp -r {files} {root}{SOURCE}/"
