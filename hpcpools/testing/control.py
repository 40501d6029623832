"""The fake's scontrol and scancel: what they change, and what scontrol shows as KEY=VALUE."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from hpcpools.account import user
from hpcpools.errors import SlurmRefusedError, UsageError
from hpcpools.slurm.partition import expand
from hpcpools.testing import dependencies, ends, nodes, options, placement
from hpcpools.testing.cluster import Node, Partition, hostlist
from hpcpools.testing.formats import Row, clock, elapsed, limit, moment
from hpcpools.testing.words import parse, values
from hpcpools.testing.world import Job, World

Env = Mapping[str, str]
_GONE = "Invalid job id specified"


def scancel(world: World, words: Sequence[str]) -> int:
    """Cancel or signal; an id that is gone is silently fine, as in 22.05."""
    valued = {"name": "n", "partition": "p", "signal": "s", "state": "t", "user": "u"}
    asked, ids = parse(words, valued, {"batch": "b", "full": "f", "me": "", "quiet": "Q"})
    if ids:
        chosen = [job for job_id in ids for job in world.find(job_id)]
    elif "user" in asked or "me" in asked or "name" in asked or "partition" in asked:
        chosen = list(world.jobs)
    else:
        print("scancel: error: No job identification provided", file=sys.stderr)
        return 1
    for job in chosen:
        facts = {"name": job.spec.name, "partition": job.spec.partition, "state": job.state}
        if any(asked.get(name, value) != value for name, value in facts.items()):
            continue
        if "signal" not in asked:
            ends.cancel(world, job)
        elif job.state == "RUNNING":
            _signal(world, job, asked)
    return 0


def _signal(world: World, job: Job, asked: Mapping[str, str]) -> None:
    name = asked["signal"]
    number = int(name) if name.isdecimal() else getattr(signal, f"SIG{name.upper().removeprefix('SIG')}", 0)
    if not number:
        raise UsageError(f"Unknown job signal: {name}", hint="for example USR2")
    if "batch" in asked:
        ends.send_to_script(world, job, number)
    else:
        ends.send(world, job, number, whole="full" in asked)


def scontrol(world: World, words: Sequence[str], env: Env) -> int:
    """One call; its exit code."""
    asked, rest = parse(words, {}, {"all": "a", "oneliner": "o", "quiet": "Q"})
    verb, *rest = rest or [""]
    if verb == "show" and rest:
        return _show(world, rest, env, one_line="oneliner" in asked)
    if verb == "ping":
        print("Slurmctld(primary) at localhost is UP")
        return 0
    if verb == "update" and rest:
        return _update(world, dict(word.partition("=")[::2] for word in rest))
    acts: dict[str, Callable[[Job], None]] = {
        "hold": ends.hold,
        "uhold": ends.hold,
        "release": ends.release,
        "requeue": lambda job: ends.requeue(world, job),
        "requeuehold": lambda job: ends.requeue(world, job, hold=True),
    }
    if verb not in acts or not rest:
        raise UsageError(f"invalid keyword: {verb}", hint="the fake Slurm does not know it")
    failed = 0
    for job_id in (one for word in rest for one in values(word)):
        found = world.find(job_id)
        if not found:
            print(f"{_GONE} for job {job_id}", file=sys.stderr)
            failed = 1
        for job in found:
            try:
                acts[verb](job)
            except SlurmRefusedError as error:
                print(f"{error.message} for job {job_id}", file=sys.stderr)
                failed = 1
    return failed


def _update(world: World, changes: dict[str, str]) -> int:
    """``scontrol update``: a node's state, or a job's time limit."""
    named = {name.lower(): value for name, value in changes.items()}
    if "nodename" in named and named.keys() <= {"nodename", "state", "reason"}:
        state, reason = named.get("state", "").lower(), named.get("reason", "")
        for name in (node.name for node in world.cluster.nodes if node.name in expand(named["nodename"])):
            if state in ("resume", "idle", "undrain"):
                world.away.pop(name, None)
            elif state in ("drain", "down"):
                world.away[name] = (state, reason)
            else:
                raise UsageError(f"Invalid input: state={state}", hint="drain, down or resume")
        return 0
    if "partitionname" in named and named.keys() <= {"partitionname", "preemptmode", "gracetime", "maxtime"}:
        return _update_partition(world, named)
    if "jobid" in named and named.keys() <= {"jobid", "timelimit"}:
        for job in world.find(named["jobid"]):
            job.spec.minutes = options.minutes(named["timelimit"])
        return 0
    raise UsageError(
        f"Update of this parameter is not supported: {' '.join(changes)}", hint="by the fake Slurm"
    )


def _update_partition(world: World, named: Mapping[str, str]) -> int:
    changed = []
    for each in world.cluster.partitions:
        if each.name == named["partitionname"]:
            most = options.minutes(named["maxtime"]) if "maxtime" in named else None
            each = replace(
                each,
                preempt_mode=named.get("preemptmode", each.preempt_mode).upper(),
                grace=int(named.get("gracetime", each.grace)),
                max_time=(most * 60 if most else None) if "maxtime" in named else each.max_time,
            )
        changed.append(each)
    world.cluster = replace(world.cluster, partitions=tuple(changed))
    return 0


# --- shown -------------------------------------------------------------------------------------------------


def _show(world: World, rest: Sequence[str], env: Env, *, one_line: bool) -> int:
    what, name = rest[0], rest[1] if len(rest) > 1 else ""
    if what == "config":
        print("\n".join(config(world, env)))
        return 0
    if what.startswith("partition"):
        found = [_partition(world, each) for each in world.cluster.partitions if name in ("", each.name)]
        missing = f"Partition {name} not found"
    elif what.startswith("node"):
        chosen = expand(name) if name else (node.name for node in world.cluster.nodes)
        known = {node.name: node for node in world.cluster.nodes}
        found = [_node(world, known[each]) for each in chosen if each in known]
        missing = f"Node {name} not found"
    elif what.startswith("job"):
        found = [_job(Row(job, world, env)) for job in (world.find(name) if name else world.jobs)]
        missing = f"slurm_load_jobs error: {_GONE}"
    else:
        raise UsageError(f"invalid entity:{what} for keyword:show", hint="the fake Slurm does not know it")
    if name and not found:
        print(missing, file=sys.stderr if what.startswith("job") else sys.stdout)
        return 1
    for groups in found:
        print(" ".join(groups) if one_line else "\n   ".join(groups) + "\n")
    return 0


def config(world: World, env: Env) -> Iterator[str]:
    """``scontrol show config``: the settings that mean something here."""
    cluster = world.cluster
    storage = "slurmdbd" if cluster.accounting else "none"
    modes = {partition.preempt_mode for partition in cluster.partitions} - {"OFF"}
    settings = {
        "AccountingStorageType": f"accounting_storage/{storage}",
        "AccountingStoreFlags": "job_comment" if cluster.stores_comments else "(null)",
        "ClusterName": cluster.name,
        "EnforcePartLimits": "NO",
        "GresTypes": "gpu",
        "JobRequeue": "1",
        "KillWait": f"{cluster.kill_wait} sec",
        "MaxArraySize": str(cluster.max_array_size),
        "MinJobAge": f"{cluster.min_job_age} sec",
        "PreemptMode": min(modes) if modes and cluster.preempt_type != "preempt/none" else "OFF",
        "PreemptType": cluster.preempt_type,
        "PriorityType": "priority/basic",
        "SelectType": "select/cons_tres",
        "SlurmctldParameters": "preempt_send_user_signal" if cluster.preempt_sends_signal else "(null)",
        "SLURM_VERSION": "22.05.8",
    }
    yield f"Configuration data as of {moment(world.now, env)}"
    yield from (f"{name:<23} = {value}" for name, value in settings.items())
    yield "\nSlurmctld(primary) at localhost is UP"


def _partition(world: World, partition: Partition) -> list[str]:
    members = world.cluster.of(partition)
    ending = "UNLIMITED" if partition.max_time is None else clock(partition.max_time, plain=False)
    return [
        f"PartitionName={partition.name}",
        f"Default={'YES' if partition.default else 'NO'} DefaultTime=NONE Hidden=NO",
        f"GraceTime={partition.grace}",
        f"MaxNodes=UNLIMITED MaxTime={ending} MinNodes=0",
        f"Nodes={hostlist([node.name for node in members])}",
        f"PriorityTier={partition.tier} PreemptMode={partition.preempt_mode}",
        f"State=UP TotalCPUs={sum(node.cpus for node in members)} TotalNodes={len(members)}",
    ]


def _node(world: World, node: Node) -> list[str]:
    cpus, memory, _ = placement.used(world, node)
    inside = ",".join(each.name for each in world.cluster.partitions if node.name in each.nodes)
    word = nodes.state(world, node).upper()
    word = {"DOWN*": "DOWN+NOT_RESPONDING", "DRAINED": "IDLE+DRAIN", "DRAINING": "ALLOCATED+DRAIN"}.get(
        word, word
    )
    away = world.away.get(node.name)
    return [
        f"NodeName={node.name} Arch=x86_64 CoresPerSocket=1",
        f"CPUAlloc={cpus} CPUEfctv={node.cpus} CPUTot={node.cpus}",
        f"Gres={nodes.gres(node)}",
        f"NodeAddr=127.0.0.1 NodeHostName={node.name} Version=22.05.8",
        f"RealMemory={node.memory} AllocMem={memory}",
        f"State={word} ThreadsPerCore=1",
        f"Partitions={inside}",
        *([f"Reason={away[1]}"] if away else []),
    ]


def _job(row: Row) -> list[str]:
    job, spec = row.job, row.job.spec
    array = [] if job.index is None else [f"ArrayJobId={job.array} ArrayTaskId={job.index}"]
    waits = ",".join(dependencies.open_ones(row.world, job)) or "(null)"
    return [
        f"JobId={job.id} {' '.join([*array, f'JobName={spec.name}'])}",
        f"UserId={user()} Account={spec.account or '(null)'} QOS={spec.qos} Priority={job.priority}",
        f"JobState={job.word} Reason={job.reason.replace(' ', '_')} Dependency={waits}",
        f"Requeue={spec.requeue:d} Restarts={job.restarts} BatchFlag=1"
        f" ExitCode={job.status >> 8 & 0xFF}:{job.status & 0x7F}",
        f"RunTime={clock(elapsed(job, row.world), plain=False)}"
        f" TimeLimit={clock(limit(job, row.world), plain=False)}",
        f"SubmitTime={row.at(job.submit)} StartTime={row.at(job.start)} EndTime={row.at(job.end)}",
        f"Partition={spec.partition} NodeList={hostlist(job.nodes) or '(null)'}",
        f"NumNodes={spec.nodes} NumTasks={spec.tasks} CPUs/Task={spec.cpus_per_task}",
        f"Command={spec.command}",
        f"WorkDir={spec.folder}",
        f"Comment={spec.comment or '(null)'}",
    ]
