"""A reader of our Redis without redis-py, whose import takes longer than every answer of `status` together.

Owns the few lines of RESP that reading over a unix socket needs. Refuses to write, and leaves TCP,
passwords and every trouble to redis-py, so that their rules and messages have one home.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hpcpools.config import Config
from hpcpools.errors import RedisUnavailableError
from hpcpools.redisdb import runtime

TIMEOUT = 10.0  # seconds for one reply, as in redisdb.connect
Words = tuple[str | bytes | int, ...]


def _same(reply: Any) -> Any:
    return reply


def _mapping(reply: Any) -> Any:
    return dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else reply


def _members(reply: Any) -> Any:
    return set(reply) if isinstance(reply, list) else reply


def _time(reply: Any) -> Any:
    return (int(reply[0]), int(reply[1])) if isinstance(reply, list) else reply


# What may be asked, named as redis-py names it, and how it shapes the reply.
READS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("exists", "get", "hget", "hlen", "hmget", "lindex", "llen", "lrange", "mget"), _same),
    **dict.fromkeys(
        ("pttl", "scard", "srandmember", "ttl", "type", "zcard", "zcount", "zrange", "zrevrange"), _same
    ),
    "hgetall": _mapping,
    "smembers": _members,
    "time": _time,
}


class ReplyError(Exception):
    """An error that Redis answered to one command."""


class Pipe:
    """Commands collected and sent in one go, as redis-py's pipeline."""

    def __init__(self, client: Reader) -> None:
        self._client = client
        self._asked: list[tuple[str, Words]] = []

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self._asked.clear()

    def __getattr__(self, name: str) -> Callable[..., Pipe]:
        if name not in READS:
            raise AttributeError(f"{name} is no command that this client sends")

        def collect(*words: Any) -> Pipe:
            self._asked.append((name, words))
            return self

        return collect

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """The replies in order; an error in its place, or raised."""
        asked, self._asked = self._asked, []
        replies = self._client.ask([(name, *_flat(words)) for name, words in asked])
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, ReplyError):
                    raise reply
        return [READS[name](reply) for (name, _), reply in zip(asked, replies, strict=True)]


class Reader:
    """One connection over a unix socket; knows the commands in :data:`READS`, each like redis-py's."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(path)
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def pipeline(self, transaction: bool = False) -> Pipe:
        """Commands for one round trip. Reads need no transaction; the word is redis-py's."""
        return Pipe(self)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*words: Any) -> Any:
            pipe = self.pipeline()
            getattr(pipe, name)(*words)
            return pipe.execute()[0]

        if name not in READS:
            raise AttributeError(f"{name} is no command that this client sends")
        return ask

    def ask(self, commands: Sequence[Words]) -> list[Any]:
        """The raw replies to ``commands``, in order, errors in their places."""
        self._socket.sendall(b"".join(map(_packed, commands)))
        return [self._reply() for _ in commands]

    def _reply(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection ended within a reply")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ReplyError(rest.decode("utf-8", "replace"))
        if kind not in (b":", b"$", b"*"):
            raise ConnectionError("the answer is not Redis's protocol")
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self._reply() for _ in range(number)]
        data = self._file.read(number + 2)
        if len(data) != number + 2:
            raise ConnectionError("the connection ended within a reply")
        return data[:-2]


@contextlib.contextmanager
def reader(config: Config) -> Iterator[Any]:
    """A connection for reading: ours where a unix socket answers without a password, else redis-py's.

    Raises RedisUnavailableError, PermissionsError, ConfigError.
    """
    client = _open(config)
    if client is None:
        from hpcpools.redisdb.connect import connect
        from hpcpools.redisdb.outage import told

        with told(), connect(config) as connection:
            yield connection
        return
    try:
        yield client
    except (OSError, ReplyError) as error:
        raise RedisUnavailableError(
            f"Redis does not answer: {error}", hint="`hpcpools ps` shows whether it runs"
        ) from None
    finally:
        client.close()


def _open(config: Config) -> Reader | None:
    """None where redis-py must do it, or must say what is wrong."""
    if runtime.uses_own_redis(config):
        path = str(runtime.started_socket(config))
    else:
        scheme, _, path = config.redis.url.partition("://")
        if scheme != "unix" or config.redis.password_file or any(mark in path for mark in "?@%"):
            return None
    with contextlib.suppress(OSError):
        client = Reader(path)
        with contextlib.suppress(OSError):
            if client.ask([("PING",)]) == [b"PONG"]:
                return client
        client.close()
    return None


def _flat(words: tuple[Any, ...]) -> Iterator[Any]:
    for word in words:  # hmget takes its fields as one list
        if isinstance(word, (list, tuple)):
            yield from word
        else:
            yield word


def _packed(words: Words) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
