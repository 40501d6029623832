"""rq-dashboard, the package, under ``/rq``: its routes and its data, with our classes, rules and pages.

Owns what of it may be reached and how. Refuses its own pages (they make markup of what jobs say), its GET
that requeues, its unpickling, and its way to put jobs back, which knows nothing of our signatures.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

from flask import Flask, Response, abort, current_app, request

from hpcpools.config import Config
from hpcpools.dashboard.security import READING
from hpcpools.errors import NotFoundError, RefusedError
from hpcpools.redisdb.connect import connect
from hpcpools.redisdb.outage import told
from hpcpools.short import control
from hpcpools.short.enqueue import fetch
from hpcpools.short.stock import tame
from hpcpools.textsafe import printable

NAME = "rq_dashboard"  # its blueprint
PREFIX = "/rq"
# Its pages are drawn from our templates of the same names; its scripts and styles are not served.
PAGES = ("queues_overview", "workers_overview", "jobs_overview", "job_view")
DATA = ("list_queues", "list_workers", "list_jobs", "job_info")
CHANGES = ("requeue_job_view", "requeue_all", "delete_job_view", "empty_queue", "compact_queue")
REGISTRIES = ("queued", "started", "scheduled", "deferred", "finished", "failed", "canceled")
MOST = 200  # jobs of a page


def mount(app: Flask, config: Config) -> None:
    """Put it into ``app``. Raises ModuleNotFoundError if it is not installed."""
    web = import_module("rq_dashboard.web")
    tame(web)
    vars(web)["from_url"] = lambda *_args, **_named: (None, _redis())
    vars(web)["get_queue_registry_jobs_count"] = functools.partial(_jobs, web)
    app.config["RQ_DASHBOARD_REDIS_URL"] = ("this pool",)  # its instances; it shows the text, no address
    app.extensions["hpcpools-redis"] = functools.cache(lambda: connect(config))
    app.before_request(functools.partial(_guard, config))
    app.after_request(_clean)
    app.register_blueprint(web.blueprint, url_prefix=PREFIX)
    ours: dict[str, Callable[..., Any]] = {
        "requeue_job_view": functools.partial(_requeue, config),
        "requeue_all": functools.partial(_requeue_all, config),
        "compact_queue": _compact,
    }
    for name in (*PAGES, *DATA, *CHANGES):
        endpoint = f"{NAME}.{name}"
        app.view_functions[endpoint] = _telling(ours.get(name, app.view_functions[endpoint]))


def _jobs(web: Any, queue: str, registry: str, offset: int, size: int, order: str, redis: Any) -> Any:
    """A page of jobs, and how many there are. Its own counts wrongly from the second page on, and reads all
    that lies between."""
    if registry == "queued":
        source = web.Queue(queue, connection=redis)
        total = source.count
    else:
        source = getattr(web, f"{registry.capitalize()}JobRegistry")(queue, connection=redis)
        total = source.get_job_count(cleanup=False)
    first, last = (
        (offset, offset + size - 1) if order == "asc" else (total - offset - size, total - offset - 1)
    )
    first = max(0, first)
    if last < first:
        return total, []
    if registry == "queued":
        ids = source.get_job_ids(first, last - first + 1)
    else:
        ids = source.get_job_ids(first, last, cleanup=False)
    fetched = web.Job.fetch_many(ids if order == "asc" else ids[::-1], connection=redis)
    return total, [web.serialize_job(job) for job in fetched if job]


def _redis() -> Any:
    return current_app.extensions["hpcpools-redis"]()


def _telling(view: Callable[..., Any]) -> Callable[..., Any]:
    def answer(**named: Any) -> Any:
        with told():
            return view(**named)

    return answer


def _guard(config: Config) -> None:
    """What it would fail on, or should not do, does not reach it."""
    if request.blueprint != NAME:
        return
    name = (request.endpoint or "").removeprefix(f"{NAME}.")
    said = request.view_args or {}
    if name not in (*PAGES, *DATA, *CHANGES) or said.get("instance_number", 0) != 0:
        abort(404)
    if name in CHANGES and request.method in READING:
        abort(405, "changes are sent by POST")
    if said.get("registry_name", "queued") not in REGISTRIES or said.get("order", "asc") not in (
        "asc",
        "dsc",
    ):
        abort(404)
    for number, most in (("per_page", MOST), ("page", 10**6)):
        if not (str(text := said.get(number, 1)).isdecimal() and 1 <= int(text) <= most):
            abort(404)
    current_app.redis_conn = _redis()  # type: ignore[attr-defined]  # where it looks for it
    if "job_id" in said:
        state = fetch(config, said["job_id"]).state
        if name == "delete_job_view" and state == "started":
            raise RefusedError("the job runs", hint="cancel it first")
    if name == "empty_queue" and said.get("registry_name") == "started":
        raise RefusedError("these jobs run", hint="cancel them one by one")


def _clean(answer: Response) -> Response:
    """Its data with the characters that mislead a reader made visible; markup is text to our pages anyway."""
    if request.blueprint == NAME and answer.mimetype == "application/json" and answer.status_code == 200:
        answer.set_data(json.dumps(_shown(answer.get_json())))
    return answer


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, dict):
        return {printable(str(name)): _shown(each) for name, each in value.items()}
    return value


def _requeue(config: Config, job_id: str) -> dict[str, Any]:
    control.requeue(config, job_id)
    return {"status": "OK"}


def _requeue_all(config: Config, queue_name: str) -> dict[str, Any]:
    if queue_name not in config.queues:
        raise NotFoundError("there is no such queue", hint="`hpcpools queues` lists them")
    names = control.failed_jobs(config, queue_name)
    refused = []
    for name in names:
        try:
            control.requeue(config, name)
        except (NotFoundError, RefusedError) as error:  # one job's trouble is not the others'
            refused.append(str(error))
    return {"status": "OK", "count": len(names) - len(refused), "refused": refused[:20]}


def _compact(queue_name: str) -> dict[str, Any]:
    """Drop entries whose job is gone. rq moves the queue away to do so; ended there, the queue is lost."""
    redis, key = _redis(), f"rq:queue:{queue_name}"
    names = [one.decode("utf-8", "replace") for one in redis.lrange(key, 0, -1)]
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(f"rq:job:{name}")
        stale = [name for name, there in zip(names, pipe.execute(), strict=True) if not there]
        for name in stale:
            pipe.lrem(key, 0, name)
        pipe.execute()
    return {"status": "OK", "count": len(stale)}
