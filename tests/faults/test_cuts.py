"""Invariant: a power cut takes what was not synced, and no more; a cut link is one member's, can be cut one way, and
can be slow.

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


SLOW = """
import socket, subprocess, sys, threading, time
from tests.faults import links
links.loopback()
if links.available() or links.too_prompt(): sys.exit(77)
CLIENT = '''
import socket, sys, time
if sys.argv[2]: open(sys.argv[2] + "/cgroup.procs", "w").write("0")
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
print("connected", flush=True)
for line in sys.stdin:
    size, began_s = int(line), time.monotonic()
    client.sendall(bytes(size - 1) + b"!")
    client.recv(1)
    print(time.monotonic() - began_s, flush=True)
'''
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
ours = links.Links("test")

def answers(connection):
    while came := connection.recv(1 << 16):
        if came.endswith(b"!"):
            connection.sendall(b"!")

def member(name):
    group = str(ours.group(name)) if name else ""
    made = subprocess.Popen([sys.executable, "-c", CLIENT, str(port), group], text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.stdout.readline() == "connected\\n"
    threading.Thread(target=answers, args=server.accept()[:1]).start()
    return made

def takes_s(process, size=1):
    process.stdin.write(f"{size}\\n")
    process.stdin.flush()
    return float(process.stdout.readline())

p1, p2, nobody = member("p1"), member("p2"), member("")
slow = links.Cut("p1", (port,), late_s=0.8)
ours.cut(slow)
assert takes_s(p1) >= 1.6, "late both ways"
assert takes_s(p1, 3_000_000) >= 1.6, "and nothing is lost"
assert takes_s(p2) < 0.8, "the others' links are as they were"
ours.cut(links.Cut("p2", (port,), answered=False, late_s=0.9))
assert 0.9 <= takes_s(p2) < 1.6, "late one way; and p1's is another delay"
ours.mend(slow)
assert takes_s(p1) < 0.8
ours.mend_all()
ours.cut(links.Cut("p2", (port,), visits=True, late_s=0.8))
assert takes_s(p2) < 0.8 and takes_s(nobody) < 0.8, "clients never wait"
assert takes_s(p1) >= 1.6, "what others ask for is late as well"
ours.cut(links.Cut("p1", (port,), late_s=60.0))
threading.Timer(0.1, ours.mend_all).start()
assert takes_s(p1) < 30, "what is on its way when the link is mended arrives then"
for process in (p1, p2, nobody):
    process.stdin.close()
    process.wait(30)
ours.close()
"""


@pytest.mark.parametrize("story", [DISK, LINKS, SLOW], ids=["disk", "links", "slow"])
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
