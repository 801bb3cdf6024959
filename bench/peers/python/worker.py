"""The worker of the benches for locks that block: workers are threads. See bench/src/crew/mod.rs."""

import struct
import sys
import threading
import time


def pause(nanos, end):
    left = min(nanos, end - time.monotonic_ns())
    if nanos and left > 0:
        time.sleep(left / 1e9)


def run(connect):
    """`connect(address, ttl)` gives what makes a lock of a key; a lock has `acquire` and `release`."""
    at, key, *numbers, notes = sys.argv[1:]
    first, workers, own_keys, hold, away, spread, ttl = (int(number) for number in numbers)
    lock_of = connect(at, ttl / 1e9)
    warm = lock_of(f"{key}/warm/{first}", first)
    warm.acquire()
    warm.release()
    keys = {worker: f"{key}/{worker}" if own_keys else key for worker in range(first, first + workers)}
    locks = {worker: lock_of(name, worker) for worker, name in keys.items()}
    print("ready", flush=True)
    start, end = map(int, sys.stdin.readline().split())
    held = []

    def work(worker, lock):
        mine = []
        pause(start - time.monotonic_ns() + spread * (worker - first) // workers, end)
        while time.monotonic_ns() < end:
            asked = time.monotonic_ns()
            lock.acquire()
            had = time.monotonic_ns()
            pause(hold, end)
            released = time.monotonic_ns()
            lock.release()
            mine.append((worker, asked, had, released))
            pause(away, end)
        held.extend(mine)

    threads = [threading.Thread(target=work, args=each) for each in locks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open(notes, "wb") as file:
        file.writelines(struct.pack("<4Q", *note) for note in held)
