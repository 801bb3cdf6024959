"""Takes a lock of kazoo again and again, and says so in a journal."""

import os
import sys

from kazoo.client import KazooClient

hosts, path, journal, rounds = sys.argv[1:5]
client = KazooClient(hosts=hosts, timeout=30.0)
client.start(timeout=60)
lines = os.open(journal, os.O_WRONLY | os.O_APPEND)
# The pattern by which kazoo is told to respect the places of Curator.
lock = client.Lock(path, "kazoo", extra_lock_patterns=["-lock-"])
for _ in range(int(rounds)):
    with lock:
        os.write(lines, b"begin w kazoo\n")
        os.write(lines, b"end w kazoo\n")
client.stop()
