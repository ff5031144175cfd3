"""Invariant: a power cut takes what was not synced, and no more; a cut link is one member's, and can be cut one way.

Each story runs in namespaces of its own, as bad days do.
"""

import os
import subprocess
from pathlib import Path

import pytest

ALONE = Path(__file__).parent / "alone"
UNAVAILABLE = 77

DISK = """
import os, sys
from pathlib import Path
from tests.faults import disks
if disks.available(): sys.exit(77)
root = Path(sys.argv[1])
disk = disks.Disks(root / "images").make("host", root / "host")
file = os.open(disk.directory / "file", os.O_CREAT | os.O_WRONLY)
os.write(file, b"synced")
os.fsync(file)
os.write(file, b" and not")
(disk.directory / "never").write_text("synced")
assert (disk.directory / "file").read_text() == "synced and not"
disk.cut_power()
os.close(file)
disk.boot()
assert (disk.directory / "file").read_text() == "synced"
assert not (disk.directory / "never").exists()
disk.fill()
try:
    (disk.directory / "more").write_bytes(bytes(4096))
except OSError:
    disk.empty()
(disk.directory / "more").write_bytes(bytes(4096))
"""

LINKS = """
import socket, subprocess, sys
from tests.faults import links
links.loopback()
if links.available(): sys.exit(77)
CLIENT = '''
import socket, sys
if sys.argv[2]: open(sys.argv[2] + "/cgroup.procs", "w").write("0")
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
print("connected", flush=True)
for line in sys.stdin:
    client.sendall(b"?")
    print(client.recv(1).decode(), flush=True)
'''
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
ours = links.Links("test")

def member(name):
    group = str(ours.group(name)) if name else ""
    made = subprocess.Popen([sys.executable, "-c", CLIENT, str(port), group], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.stdout.readline() == "connected\\n"
    return made, server.accept()[0]

def asks(process):
    process.stdin.write("\\n")
    process.stdin.flush()

def answered(process, connection):
    assert connection.recv(1) == b"?"
    connection.sendall(b"!")
    return process.stdout.readline()

p1, at1 = member("p1")
p2, at2 = member("p2")
nobody, at3 = member("")
cut = links.Cut("p1", (port,), answered=False)
ours.cut(cut)
asks(p1)
for process, connection in ((p2, at2), (nobody, at3)):
    asks(process)
    assert answered(process, connection) == "!\\n", "the others' links stay"
at1.setblocking(False)
try:
    at1.recv(1)
except BlockingIOError:
    pass
else:
    raise AssertionError("what p1 says is heard")
at1.settimeout(30)
ours.mend(cut)
assert answered(p1, at1) == "!\\n", "it is sent again until it is heard"
ours.cut(links.Cut("p1", (port,), asked=False))
asks(p1)
assert at1.recv(1) == b"?", "the other way is open"
ours.mend_all()
at1.sendall(b"!")
assert p1.stdout.readline() == "!\\n"
for process in (p1, p2, nobody):
    process.stdin.close()
    process.wait(30)
ours.close()
"""


@pytest.mark.parametrize("story", [DISK, LINKS], ids=["disk", "links"])
def test_cuts(story: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [ALONE, "-c", story, tmp_path],
        env=os.environ | {"PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode == UNAVAILABLE:
        pytest.skip("only root can cut power and links, on a kernel that knows how")
    assert done.returncode == 0, done.stderr
