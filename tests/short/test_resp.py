"""The lean reader answers like redis-py, and hands over to it what it does not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcpools import config as configuration
from hpcpools import gpu
from hpcpools.errors import RedisUnavailableError
from hpcpools.redisdb import resp
from hpcpools.short import views
from tests.short.lab import Lab

ASKED: dict[str, tuple[Any, ...]] = {
    "exists": ("list", "hash", "absent"),
    "get": ("text",),
    "hget": ("hash", "a"),
    "hgetall": ("hash",),
    "hlen": ("hash",),
    "hmget": ("hash", ["a", "absent"]),
    "lindex": ("list", 0),
    "llen": ("list",),
    "lrange": ("list", 0, -1),
    "mget": ("text", "absent"),
    "pttl": ("text",),
    "scard": ("set",),
    "smembers": ("set",),
    "srandmember": ("absent",),
    "ttl": ("text",),
    "type": ("zset",),
    "zcard": ("zset",),
    "zcount": ("zset", 0, 9),
    "zrange": ("zset", 0, -1),
    "zrevrange": ("zset", 0, -1),
}

# What `status` has no use for: each takes a tenth of its time or more, dataclasses for what is made with it.
SLOW = {"asyncio", "concurrent", "croniter", "dataclasses", "redis", "rich", "rq", "submitit", "torch"}
SLOW |= set() if gpu.count() else {"pynvml"}


def test_every_command_answers_like_redis_py(lab: Lab) -> None:
    """One by one and in one pipeline; binary data, empty and absent keys."""
    lab.redis.set("text", b"\r\n\x00\xff" * 1000)
    lab.redis.hset("hash", mapping={"a": "1", "b": ""})
    lab.redis.rpush("list", "x", "y")
    lab.redis.sadd("set", "m", "n")
    lab.redis.zadd("zset", {"low": 1, "high": 2})
    assert set(ASKED) == set(resp.READS) - {"time"}
    with resp.reader(lab.config) as lean:
        assert isinstance(lean, resp.Reader)
        assert abs(lean.time()[0] - lab.redis.time()[0]) <= 1
        expected = [getattr(lab.redis, name)(*words) for name, words in ASKED.items()]
        assert [getattr(lean, name)(*words) for name, words in ASKED.items()] == expected
        pipe = lean.pipeline()
        for name, words in ASKED.items():
            getattr(pipe, name)(*words)
        assert pipe.execute() == expected
        with pytest.raises(AttributeError):
            lean.delete("text")


def test_an_error_is_told_in_one_line(lab: Lab) -> None:
    """A key of the wrong type, which only a stranger can have planted."""
    lab.redis.set("rq:workers", "planted")
    with pytest.raises(RedisUnavailableError, match="WRONGTYPE"):
        views.workers(lab.config)


def test_a_password_is_left_to_redis_py(lab: Lab) -> None:
    """The lean reader is refused, so redis-py connects with the password."""
    lab.redis.config_set("requirepass", "secret")
    secret = Path(lab.folder, "secret")
    secret.touch(mode=0o600)
    secret.write_text("secret")
    data = {"redis": {"url": f"unix://{lab.socket}", "password_file": "secret"}}
    given = configuration.parse(data, lab.folder / "hpcpools.toml", {})
    with resp.reader(given) as client:
        assert not isinstance(client, resp.Reader)
        assert client.llen("absent") == 0
    with pytest.raises(RedisUnavailableError), resp.reader(lab.config):
        pass


def test_status_imports_no_redis_rq_or_submitit(lab: Lab) -> None:
    """What a look costs is mostly imports; with a live Redis none of the slow ones is needed.

    Nor `dataclasses`: each class made with it takes 0.5 ms, a msgspec Struct 0.01.
    """
    code = (
        "import sys; sys.argv = ['hpcpools', '--config', sys.argv[1], 'status', '--json']\n"
        "from hpcpools.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"slow = {SLOW!r} & set(sys.modules)\n"
        "sys.exit(f'imported: {slow}' if slow else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(lab.folder / "hpcpools.toml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert '"queue": "default"' in done.stdout
