"""Whether this machine can carry a bed."""

import os
import subprocess

from localcluster.process import ProcessFailed, find_program

from tests.testbed import cgroups, rootfs

PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh-keygen": "openssh-client",
    "mkfs.ext4": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
}
# All that a bed asks of the kernel, tried where it leaves nothing behind.
TRIAL = """
mount -t tmpfs tmpfs /run || { echo "no file system may be mounted"; exit 1; }
mkdir /run/lower /run/upper /run/work /run/merged
mount -t overlay overlay -o lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work /run/merged ||
    { echo "the kernel has no overlay file system"; exit 1; }
truncate -s 8M /run/image && mkfs.ext4 -q /run/image && mount -o loop /run/image /run/lower ||
    { echo "no loop device can be mounted"; exit 1; }
{ ip link add bed0 type bridge && ip link add name one type veth peer name two; } ||
    { echo "no bridge or no veth"; exit 1; }
nft 'add table bridge bed; add chain bridge bed links { type filter hook forward priority 0; };
    add rule bridge bed links numgen random mod 100 < 1 drop' ||
    { echo "the kernel's nftables know no bridge"; exit 1; }
"""


def why_not() -> str | None:
    """The one reason why it cannot, in plain words; None where it can."""
    if os.geteuid() != 0:
        return "a test bed needs root"
    for program, package in PROGRAMS.items():
        try:
            find_program(program)
        except ProcessFailed:
            return f"a test bed needs {program} (Debian: {package}); tests/run installs it"
    if cgroups.unified() is None or cgroups.cpu() is None or not os.access(cgroups.ROOT, os.W_OK):
        return "a test bed needs control groups, version 2, and their cpu controller"
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation=private"]
    tried = subprocess.run([*namespaces, "sh", "-c", TRIAL], capture_output=True, text=True, check=False)
    if tried.returncode:
        said = (tried.stdout.splitlines() or tried.stderr.splitlines() or ["no namespaces can be made"])[-1]
        return f"this machine cannot carry a test bed: {said}"
    return None if rootfs.BUILD.exists() else "there is no deploy/appliance/build"
