"""kazoo's Lock as its documentation shows it: workers are threads of one client.

Does what its orders say and writes the same notes as the workers of the bench (src/crew/mod.rs).
"""

import struct
import sys
import threading
import time

from kazoo.client import KazooClient

at, key, first, workers, own, hold, away, spread, ttl, notes = sys.argv[1:11]
first, workers, own, hold, away, spread = int(first), int(workers), own != "0", int(hold), int(away), int(spread)
client = KazooClient(hosts=at, timeout=30.0)
client.start(timeout=60)


def lock_of(worker):
    return client.Lock(f"/{key}/{worker}" if own else f"/{key}", str(worker))


def pause(nanos, end):
    left = min(nanos, end - time.monotonic_ns())
    if left > 0:
        time.sleep(left / 1e9)


with client.Lock(f"/warm-{first}", "warm"):
    pass
locks = {worker: lock_of(worker) for worker in range(first, first + workers)}
print("ready", flush=True)
start, end = map(int, sys.stdin.readline().split())
held = []


def work(worker):
    lock, mine = locks[worker], []
    pause(start - time.monotonic_ns() + spread * (worker - first) // workers, end)
    while time.monotonic_ns() < end:
        asked = time.monotonic_ns()
        lock.acquire()
        had = time.monotonic_ns()
        if hold:
            pause(hold, end)
        released = time.monotonic_ns()
        lock.release()
        mine.append((worker, asked, had, released))
        if away:
            pause(away, end)
    held.extend(mine)


threads = [threading.Thread(target=work, args=(worker,)) for worker in locks]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open(notes, "wb") as file:
    for note in held:
        file.write(struct.pack("<4Q", *note))
client.stop()
