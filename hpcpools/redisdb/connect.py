"""One connected client: of the Redis the config names, or of our own on its private unix socket.

Owns addresses, passwords, timeouts and retries. Refuses plain TCP to another host, a password in a URL,
and a socket or directory that others can enter.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from hpcpools import formats
from hpcpools.config import Config
from hpcpools.errors import ConfigError, RedisUnavailableError
from hpcpools.redisdb import keys, runtime
from hpcpools.redisdb.runtime import own_socket, uses_own_redis
from hpcpools.textsafe import one_line

__all__ = ["check_url", "connect", "own_socket", "uses_own_redis"]

CONNECT_TIMEOUT = 5.0  # seconds
REPLY_TIMEOUT = 10.0  # seconds; an AOF rewrite or a full disk queue can stall one reply
RETRIES = 3  # of a command whose connection broke: 0.05 s, 0.1 s, 0.2 s … at most 1 s apart
# Other query parameters of redis-py could undo the timeouts or the certificate check.
_QUERY = {"unix": {"db"}, "redis": {"db"}, "rediss": {"db", "ssl_ca_certs"}}


def connect(
    config: Config, *, blocking: bool = False, retries: int = RETRIES, reply_timeout: float = REPLY_TIMEOUT
) -> redis.Redis:
    """A client that has answered; replies are bytes.

    ``blocking``: no reply timeout, for commands that wait on the server (BLPOP, XREAD, pubsub).
    ``retries``: how often a command whose connection broke is sent again, with backoff; a command may
    therefore run twice, so write only what is harmless to repeat.
    ``reply_timeout``: seconds to wait for one reply.
    Raises RedisUnavailableError, PermissionsError, ConfigError, RefusedError if a newer hpcpools wrote there.
    """
    where = str(own_socket(config)) if uses_own_redis(config) else _redacted(one_line(config.redis.url))
    client = _client(config, reply_timeout, retries)
    try:
        found = client.get(keys.FORMAT)  # instead of a ping
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise _unavailable(where, error, "check redis.password_file and the user in redis.url") from None
    except redis.RedisError as error:
        hint = "start it with `hpcpools up`" if uses_own_redis(config) else "check redis.url and that it runs"
        raise _unavailable(where, error, hint) from None
    formats.check(_number(found), f"Redis at {where}")
    if not blocking:
        return client
    client.close()
    return _client(config, None, retries)


def _client(config: Config, reply_timeout: float | None, retries: int) -> redis.Redis:
    options: dict[str, Any] = {
        "decode_responses": False,
        "protocol": 2,
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": reply_timeout,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), retries),
        "health_check_interval": 30 if reply_timeout else 0,
    }
    if not uses_own_redis(config):
        client: redis.Redis = redis.Redis.from_url(check_url(config), password=_password(config), **options)
        return client
    return redis.Redis(unix_socket_path=str(runtime.started_socket(config)), **options)


def check_url(config: Config) -> str:
    """``redis.url`` if it is safe to use. Raises ConfigError."""
    url = config.redis.url
    source = f"{config.file}: redis.url = {one_line(_redacted(url))!r}"
    try:
        parts = urlsplit(url)
        password, host, _ = parts.password, parts.hostname, parts.port
    except ValueError:  # its text may quote a password taken for a port
        raise ConfigError(f"{source} is no address", hint="write unix:///path or rediss://host") from None
    if password:
        raise ConfigError(
            f"{source} holds a password",
            hint="put it in a file of mode 0600 and name that file in redis.password_file",
        )
    if extra := sorted(set(parse_qs(parts.query, keep_blank_values=True)) - _QUERY[parts.scheme]):
        raise ConfigError(
            f"{source}: parameter {extra[0]!r} is not supported",
            hint=f"allowed: {', '.join(_QUERY[parts.scheme])}",
        )
    if parts.scheme == "redis" and not _is_loopback(host or "localhost"):
        raise ConfigError(
            f"{source}: plain TCP to another host is readable and writable by others on the way",
            hint="use rediss:// (TLS) with redis.password_file, or leave redis.url empty",
        )
    return url


def _password(config: Config) -> str | None:
    if not config.redis.password_file:
        return None
    return runtime.private_text(config.folder / Path(config.redis.password_file).expanduser())


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _number(found: Any) -> object:
    """What stands in a key of Redis, as a number where it is one; a missing one is of the first format."""
    text = "" if found is None else found.decode("utf-8", "replace")
    return formats.FORMAT if found is None else int(text) if text.isascii() and text.isdecimal() else text


def _redacted(url: str) -> str:
    """``url`` without user, password, port and parameters."""
    scheme, mark, rest = url.partition("?")[0].partition("://")
    host = rest.rpartition("@")[2]
    return scheme + mark + (host if scheme == "unix" else host.partition(":")[0])


def _unavailable(where: str, error: Exception, hint: str) -> RedisUnavailableError:
    reason = one_line(str(error)) or type(error).__name__
    return RedisUnavailableError(f"Redis at {where} does not answer: {reason}", hint=hint)
