"""kazoo's Lock as its documentation shows it, with its defaults."""

import worker
from kazoo.client import KazooClient


def connect(at, ttl):
    client = KazooClient(hosts=at, timeout=30.0)
    client.start(timeout=60)
    return lambda key, number: client.Lock(f"/{key}", str(number))


worker.run(connect)
