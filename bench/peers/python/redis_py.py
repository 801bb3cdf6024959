"""redis-py's asyncio lock with its defaults, as a worker of the benches; see bench/src/crew/mod.rs."""

import asyncio
import struct
import sys
import time

import redis.asyncio as redis


async def worker(client, number, key, end, hold, away, late, ttl):
    await asyncio.sleep(late)
    lock = client.lock(key, timeout=ttl)
    notes = bytearray()
    while time.monotonic_ns() < end:
        asked = time.monotonic_ns()
        await lock.acquire()
        had = time.monotonic_ns()
        if hold:
            await asyncio.sleep(max(0, min(hold, (end - had) / 1e9)))
        released = time.monotonic_ns()
        await lock.release()
        notes += struct.pack("<4Q", number, asked, had, released)
        if away:
            await asyncio.sleep(max(0, min(away, (end - released) / 1e9)))
    return notes


async def main():
    at, key, *numbers, path = sys.argv[1:]
    first, workers, own_keys, hold, away, spread, ttl = (int(number) for number in numbers)
    client = redis.from_url(at)
    async with client.lock(f"{key}/warm/{first}", timeout=ttl / 1e9):
        pass
    print("ready", flush=True)
    start, end = (int(number) for number in sys.stdin.readline().split())
    time.sleep(max(0, (start - time.monotonic_ns()) / 1e9))
    work = [
        worker(client, number, f"{key}/{number}" if own_keys else key, end, hold / 1e9, away / 1e9,
               spread / 1e9 * (number - first) / workers, ttl / 1e9)
        for number in range(first, first + workers)
    ]
    notes = await asyncio.gather(*work)
    with open(path, "wb") as file:
        file.writelines(notes)


asyncio.run(main())
