"""pottery's Redlock as its documentation shows it, with its defaults."""

import worker
from pottery import Redlock
from redis import Redis


def connect(at, ttl):
    masters = {Redis.from_url(at)}
    return lambda key, number: Redlock(key=key, masters=masters, auto_release_time=ttl)


worker.run(connect)
