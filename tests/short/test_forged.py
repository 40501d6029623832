"""Whoever can write to Redis still cannot make us run anything; see also tests/security."""

from __future__ import annotations

import hmac
import json
import pickle
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rq import Callback, Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from hpcpools import config as configuration
from hpcpools.errors import PermissionsError, RefusedError, RunFailedError
from hpcpools.short import signing
from hpcpools.short.enqueue import ShortJob
from hpcpools.short.job import HpcQueue
from tests.short.lab import TASKS, Lab, wait_for


class Attacker:
    """Only writes to Redis; knows rq well, and not the key."""

    def __init__(self, lab: Lab, url: str) -> None:
        self.lab = lab
        self.redis = lab.redis
        self.mark = lab.folder / "pwned"
        self.url = url

    def unsigned_call(self) -> str:
        """A job that stock rq made: any importable callable."""
        queue = Queue("default", connection=self.redis, serializer=JSONSerializer)
        return queue.enqueue("os.system", f"touch {self.mark}").id

    def copied_signature(self) -> str:
        """Someone else's signature on os.system."""
        job_id = self._steal()
        call = json.dumps(["os.system", None, [f"touch {self.mark}"], {}]).encode()
        return self._push(job_id, data=zlib.compress(call))

    def replayed_to_new_id(self) -> str:
        """A good job, whole, under another id."""
        fields: Any = self.redis.hgetall(f"rq:job:{self._steal()}")
        self.redis.hset("rq:job:replayed", mapping=fields)
        return self._push("replayed")

    def moved_to_other_queue(self) -> str:
        """A good job on a queue it was not meant for."""
        job_id = self._steal()
        self.redis.hset(f"rq:job:{job_id}", "origin", "maintenance")
        self.redis.rpush("rq:queue:maintenance", job_id)
        return job_id

    def popped_from_other_queue(self) -> str:
        """Its record untouched, its id pushed to a queue it was not meant for."""
        job_id = self._steal()
        self.redis.rpush("rq:queue:maintenance", job_id)
        return job_id

    def altered_arguments(self) -> str:
        """The same task with other arguments."""
        call = json.dumps([f"{TASKS}.say", None, [], {"log": str(self.mark), "word": "x"}]).encode()
        return self._push(self._steal(), data=zlib.compress(call))

    def failure_callback(self) -> str:
        """A callback that would end the worker."""
        return self._push(self._steal(), failure_callback_name="os.abort", success_callback_name="os.abort")

    def webhook(self) -> str:
        """An address to call at the end."""
        hooks = [{"url": self.url, "job_status": status} for status in ("finished", "failed")]
        return self._push(self._steal(), webhooks=json.dumps(hooks))

    def longer_timeout(self) -> str:
        """More time than it was given."""
        return self._push(self._steal(), timeout="-1")

    def rate_limit(self) -> str:
        """A feature that we do not use."""
        return self._push(self._steal(), rate_limit_key="x", rate_limit_concurrency="1")

    def garbage(self) -> str:
        """Unsigned fields that no parser accepts."""
        return self._push(self._steal(), status="nonsense", started_at="never", retries_left="many")

    def not_even_data(self) -> str:
        """A hash without any call."""
        return self._push("nodata", status="queued")

    def zip_bomb(self) -> str:
        """Data that grows without end when it is read."""
        return self._push(self._steal(), data=zlib.compress(b"[" * 300_000_000, 9))

    def pickled(self) -> str:
        """Data, result and meta as pickles that would run a command."""
        evil = pickle.dumps(_Evil(str(self.mark)))
        return self._push("pickled", data=zlib.compress(evil), meta=evil, result=evil)

    def _steal(self) -> str:
        """A good job that is in no queue any more."""
        job = self.lab.enqueue("say", word="stolen")
        self.redis.lrem("rq:queue:default", 0, job.id)
        return job.id

    def _push(self, job_id: str, **fields: str | bytes) -> str:
        for name, value in fields.items():
            self.redis.hset(f"rq:job:{job_id}", name, value)
        self.redis.rpush("rq:queue:default", job_id)
        return job_id


FORGERIES: list[Callable[[Attacker], str]] = [
    Attacker.unsigned_call,
    Attacker.copied_signature,
    Attacker.replayed_to_new_id,
    Attacker.moved_to_other_queue,
    Attacker.altered_arguments,
    Attacker.failure_callback,
    Attacker.webhook,
    Attacker.longer_timeout,
    Attacker.rate_limit,
    Attacker.garbage,
    Attacker.not_even_data,
    Attacker.zip_bomb,
    Attacker.pickled,
    Attacker.popped_from_other_queue,
]


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path(self.path).touch, ()


def test_a_refused_job_keeps_its_evidence_and_is_not_signed(lab: Lab) -> None:
    """Failing a forged job does not rewrite what it claims, nor make it valid for a requeue."""
    attacker = Attacker(lab, "http://127.0.0.1:9/")
    job_id = attacker.copied_signature()
    claimed = lab.redis.hgetall(f"rq:job:{job_id}")
    lab.start_pool()
    job = ShortJob(lab.config, lab.redis, job_id)
    assert job.wait(20) == "failed"
    after = lab.redis.hgetall(f"rq:job:{job_id}")
    assert {name: after[name] for name in (b"data", b"hpcpools_signature")} == {
        name: claimed[name] for name in (b"data", b"hpcpools_signature")
    }
    Job.fetch(job_id, connection=lab.redis, serializer=JSONSerializer).requeue()
    wait_for(lambda: lab.redis.xlen(f"rq:results:{job_id}") == 2, "failed once more")
    assert job.wait(20) == "failed"
    assert not attacker.mark.exists()


def test_planted_ids_cannot_stop_the_pool(lab: Lab) -> None:
    """Ids that are no ids, keys of the wrong type and ids without a job are dropped; good jobs go on."""
    lab.redis.rpush("rq:queue:default", "../../etc", "a:b", "gone", "\x1b[2J", "string")
    lab.redis.set("rq:job:string", "no hash")
    lab.redis.rpush("rq:queue:default:intermediate", "a:b", "string", "gone")
    job = lab.enqueue("say")
    lab.start_pool()
    assert job.result(20) == "hello"
    before = lab.wait_idle_workers(2)
    wait_for(lambda: lab.redis.llen("rq:queue:default:intermediate") == 0, "strays are dropped")
    assert lab.workers() == before
    assert "Traceback" not in lab.events()


def test_rq_tools_may_requeue_and_write_meta(lab: Lab) -> None:
    """What rq's own tools write about a job's life leaves it valid: requeue, meta, status, retries."""
    lab.start_pool()
    job = lab.enqueue("die", how="raise")
    assert job.wait(20) == "failed"
    stock = Job.fetch(job.id, connection=lab.redis, serializer=JSONSerializer)
    stock.meta["note"] = "seen"
    stock.save_meta()  # type: ignore[no-untyped-call]
    stock.requeue()
    wait_for(lambda: sum(line[0] == "die" for line in lab.lines()) == 2, "it ran again")
    assert job.wait(20) == "failed"
    assert "boom" in job.reason()


def test_our_classes_refuse_what_they_cannot_keep(lab: Lab) -> None:
    """Callbacks and positional arguments are refused when a job is made, not silently dropped."""
    queue = HpcQueue("default", connection=lab.redis, job_class=lab.client._job_class)
    with pytest.raises(RefusedError):
        queue.enqueue(f"{TASKS}.say", "positional")
    with pytest.raises(RefusedError):
        queue.enqueue(f"{TASKS}.say", kwargs={"log": "x"}, on_failure=Callback("os.abort"))
    assert lab.redis.llen("rq:queue:default") == 0


def test_task_removed_from_the_allow_list(lab: Lab) -> None:
    """A signed job whose function is not declared (any more) is refused by the worker as well."""
    job = lab.client._job_class.of(
        lab.client.catalog.short(f"{TASKS}:say"), {"log": str(lab.log)}, connection=lab.redis, job_id="old"
    )
    job.func_name = f"{TASKS}.undeclared"
    HpcQueue("default", connection=lab.redis, job_class=lab.client._job_class).enqueue_job(job)
    lab.start_pool()
    with pytest.raises(RunFailedError, match="no declared task"):
        ShortJob(lab.config, lab.redis, "old").result(20)
    assert lab.lines() == []


def test_key_file(tmp_path: Path) -> None:
    """The key is made once, 0600 in a 0700 directory, and refused when its mode or content is wrong."""
    config = configuration.parse({"services": {"runtime_dir": "run"}}, tmp_path / "hpcpools.toml", {})
    key = signing.pool_key(config)
    path = config.runtime_dir / signing.FILE_NAME
    assert len(key) == 32 and signing.pool_key(config) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.runtime_dir.stat().st_mode) == 0o700
    path.chmod(0o640)
    with pytest.raises(PermissionsError):
        signing.pool_key(config)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(PermissionsError):
        signing.pool_key(config)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(key)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match=r"pool\.key"):
        signing.pool_key(config)


def test_signature_covers_names_and_bounds() -> None:
    """No two maps have the same signature: values cannot slide into names or neighbours."""
    key = b"k" * 32
    maps = [{"a": b"b"}, {"ab": b""}, {"a": b"", "b": b""}, {"b": b"a"}, {"a": b"bc"}, {}]
    assert len({signing.sign(key, fields) for fields in maps}) == len(maps)
    assert signing.verify(key, maps[0], signing.sign(key, maps[0]).encode())
    assert not signing.verify(key, maps[0], b"\xff")
    with pytest.raises(ValueError, match="key"):
        signing.sign(b"", {})


def test_the_signature_is_plain_hmac() -> None:
    """However it is computed: jobs that were signed by another version stay valid."""
    key, value = b"k" * 32, b"xyz"
    text = signing._PURPOSE
    for each in (b"a", b"", b"bc", value):
        text += len(each).to_bytes(8, "big") + each
    assert signing.sign(key, {"bc": value, "a": b""}) == hmac.new(key, text, "sha256").hexdigest()
