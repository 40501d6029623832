"""Slurm's reason codes (squeue(1), JOB REASON CODES) in plain words: why a job waits, and what to do.

A pure table. Refuses to guess: a code that is not in it is shown as Slurm wrote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from hpcpools.textsafe import one_line

# wait: ends by itself; limit: ends when other jobs end, or the limit is raised; held: someone must release
# it; never: it cannot start as it was asked for; site: an administrator has to act; ended: why a job ended.
Family = Literal["wait", "limit", "held", "never", "site", "ended", "unknown"]


@dataclass(frozen=True)
class Reason:
    """One code. ``nodes`` are those that Slurm named with it, in its own notation."""

    code: str
    family: Family
    cause: str
    action: str
    nodes: str = ""


def _of(family: Family, cause: str, action: str, *codes: str) -> dict[str, Reason]:
    return {code: Reason(code, family, cause, action) for code in codes}


_WAIT = "Wait: it starts by itself."
_ADMIN = "Ask the site's administrators; cancel it if you need the place in the queue no more."
_AGAIN = "Cancel it and submit it again with what the partition offers (`hpcpools train --check` tests it)."

TABLE: dict[str, Reason] = {
    # --- ends by itself
    **_of("wait", "Slurm has not looked at it yet.", _WAIT, "None", "WaitingForScheduling", "SchedDefer"),
    **_of("wait", "Not enough free nodes for it right now; it is the next in line.", _WAIT, "Resources"),
    **_of(
        "wait",
        "Jobs of higher priority are before it in this partition.",
        "Wait; a shorter --time lets Slurm fit it into a gap between larger jobs.",
        "Priority",
    ),
    **_of("wait", "Its earliest start time has not come; a requeued job waits a little, too.", _WAIT,
          "BeginTime"),
    **_of("wait", "It waits for another job to end.", "Wait, or cancel it if that job is gone.",
          "Dependency"),
    **_of("wait", "The node is still cleaning up after its last start.", _WAIT, "Cleaning"),
    **_of("wait", "The site's start-up program (prolog) still runs.", _WAIT, "Prolog", "PrologSlurmctld"),
    **_of("wait", "Its reservation has not begun, or is full.", _WAIT, "Reservation"),
    **_of("wait", "All licences that it asks for are in use.", _WAIT, "Licenses"),
    **_of("wait", "Its array has as many elements running as it may.", _WAIT, "JobArrayTaskLimit"),
    **_of("wait", "The burst buffer has no room yet.", _WAIT, "BurstBufferResources"),
    **_of("wait", "Its files are being copied in.", _WAIT, "BurstBufferStageIn"),
    **_of("wait", "The scheduler handles only so many jobs of a user at a time.", _WAIT, "QueueSizeSystem",
          "QueueSize", "JobsPerUserLimit"),
    # --- limits of a user, an account or a QOS
    **_of("limit", "Your account has as many jobs as it may.", "Wait until one ends, or cancel one.",
          "AssociationJobLimit", "AssocGrpJobsLimit", "AssocMaxJobsLimit", "MaxJobsPerAccount",
          "AssocGrpSubmitJobsLimit", "AssocMaxSubmitJobLimit", "MaxSubmitJobsPerAccount"),
    **_of("limit", "You have as many jobs running as the QOS allows one user.",
          "Wait until one of yours ends, or cancel one.",
          "MaxJobsPerUser", "QOSMaxJobsPerUserLimit", "QOSJobLimit", "QOSMaxSubmitJobPerUserLimit"),
    **_of("limit", "All jobs in the QOS together are at its limit.", "Wait until one of them ends.",
          "QOSGrpJobsLimit", "QOSGrpSubmitJobsLimit", "QOSResourceLimit", "QOSUsageThreshold"),
    **_of("limit", "Your account has used up a resource limit.",
          "Wait until jobs of the account end, or ask for a higher limit.", "AssociationResourceLimit"),
    **_of("limit", "The account's GPU limit is used up by running jobs.",
          "Wait until jobs of the account end; fewer --gpus may fit sooner.", "AssocGrpGRES"),
    **_of("limit", "You hold as many GPUs as the QOS allows one user.",
          "Wait until one of your jobs ends; fewer --gpus may fit sooner.", "QOSMaxGRESPerUser"),
    # --- someone holds it
    **_of("held", "You (or a script of yours) hold it.", "Release it: `scontrol release JOBID`.",
          "JobHeldUser"),
    **_of("held", "An administrator holds it.", "Ask the administrators why; only they can release it.",
          "JobHeldAdmin"),
    **_of("held", "It was requeued too often, so Slurm holds it.",
          "Read its log first, then `scontrol release JOBID`, or cancel and submit it again.",
          "JobHoldMaxRequeue"),
    **_of("held", "It could not be launched on its node, and Slurm holds it.",
          "Look for a broken node or home directory; then `scontrol release JOBID`, or cancel and submit it"
          " again.",
          "launch failed requeued held", "user env retrieval failed requeued held"),
    **_of("held", "Its reservation was deleted, so Slurm holds it.",
          "Cancel it and submit it again without that reservation.", "ReservationDeleted", "ResvDelHold"),
    # --- cannot start as asked
    **_of("never", "It asks for more time than the partition allows.",
          "Cancel it and submit it again with a shorter --time, or in another partition.",
          "PartitionTimeLimit"),
    **_of("never", "It needs more (or fewer) nodes than the partition allows, or those are out of service.",
          "Cancel it and submit it to another partition, or wait if its nodes are only drained.",
          "PartitionNodeLimit", "PartitionMaxNodes", "PartitionMinNodes"),
    **_of("never", "No node can ever satisfy what it asks for (features, GPUs, memory).", _AGAIN,
          "BadConstraints"),
    **_of("never", "The partition does not accept it as it is.", _AGAIN, "PartitionConfig"),
    **_of("never", "The job it depends on ended in another way than it asks for.",
          "Cancel it; submit it again without the dependency.", "DependencyNeverSatisfied"),
    **_of("never", "Its account is not valid (any more), here or in this partition.",
          "Cancel it and submit it again with a valid --account (`sacctmgr show assoc user=$USER`).",
          "InvalidAccount", "AccountNotAllowed", "Job's account not permitted to use this partition"),
    **_of("never", "Its QOS is not valid (any more), here or in this partition.",
          "Cancel it and submit it again with a valid QOS (`sacctmgr show assoc user=$USER`).",
          "InvalidQOS", "QOSNotAllowed", "Job's QOS not permitted to use this partition"),
    **_of("never", "It asks for more time than your account or QOS ever allows one job.",
          "Cancel it and submit it again with a shorter --time.",
          "AssociationTimeLimit", "QOSTimeLimit", "AssocMaxWallDurationPerJobLimit",
          "QOSMaxWallDurationPerJobLimit"),
    **_of("never", "It cannot end before its deadline.", "Cancel it and submit it again without it.",
          "DeadLine", "Deadline"),
    **_of("never", "It stays below the least that the QOS asks for.",
          "Cancel it and ask for more, or use another QOS.", "QOSMinCpuNotSatisfied", "QOSMinGRES",
          "QOSMinMemory", "QOSMinNode", "QOSMinBB", "QOSMinBilling", "QOSMinEnergy", "QOSMinLicense"),
    **_of("never", "It asks for more memory than a node or CPU may give.", _AGAIN, "MaxMemPerLimit"),
    # --- the site
    **_of("site", "The partition is closed (DOWN).",
          "Wait for the end of the maintenance, or submit to another partition.", "PartitionDown"),
    **_of("site", "The partition is inactive: it takes jobs and starts none.",
          "Wait until the administrators open it, or submit to another partition.", "PartitionInactive"),
    **_of("site", "Nodes that it needs are down, drained, reserved or busy.",
          "Wait, or submit it without asking for these nodes.", "ReqNodeNotAvail"),
    **_of("site", "Nodes that it needs are down, drained, or kept for a partition of higher priority.",
          "Wait; if the nodes stay down, tell the administrators.",
          "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"),
    **_of("site", "A node that it needs is down.", "Wait for its repair; tell the administrators.",
          "NodeDown"),
    **_of("site", "No front-end node is in service.", _ADMIN, "FrontEndDown"),
    **_of("site", "Something at the site failed: Slurm, a file system or the network.", _ADMIN,
          "SystemFailure", "BurstBufferOperation"),
    **_of("site", "Accounting does not let it start.", _ADMIN, "AccountingPolicy"),
    # --- how a job ended
    **_of("ended", "It could not be launched on its node.",
          "See the launcher's log in the run directory; submit it again.", "JobLaunchFailure"),
    **_of("ended", "It ended with a non-zero exit code.", "Read its log.", "NonZeroExitCode"),
    **_of("ended", "A process was ended by a signal.", "Read its log.", "RaisedSignal"),
    **_of("ended", "It used up its time.", "Submit it again; it resumes from its newest checkpoint.",
          "TimeLimit"),
    **_of("ended", "It used more memory than it asked for.", "Use less memory, or ask for more.",
          "OutOfMemory"),
    **_of("ended", "It was idle for longer than the site allows.", _ADMIN, "InactiveLimit"),
}  # fmt: skip

_NODES = re.compile(r"UnavailableNodes:([^\s()]*)")
_SENTENCES = {code.lower(): code for code in TABLE if " " in code}
_LIMIT = re.compile(
    r"(?P<who>Assoc|QOS)?(?P<how>Grp|Max)"
    r"(?P<what>Billing|BB|Cpu|CPU|CPUs|Energy|GRES|Gres|License|Mem|Memory|Node|Jobs|SubmitJobs?|Wall|Unknown)"
    r"(?P<sum>Minutes|RunMinutes)?(?P<per>PerJob|PerUser|PerAccount|PerNode)?(?:Limit)?"
)
_WHAT = {"BB": "burst buffer", "Cpu": "CPU", "CPUs": "CPU", "GRES": "GPU", "Gres": "GPU",
         "License": "licence", "Mem": "memory", "Memory": "memory", "Node": "node", "Jobs": "job",
         "SubmitJob": "job", "SubmitJobs": "job", "Wall": "time", "Unknown": "resource"}  # fmt: skip
_PER = {"PerUser": "for one user", "PerAccount": "for one account"}


def read(text: str) -> Reason:
    """What Slurm's reason ``text`` says, with nodes it names; family ``unknown`` if we do not know it."""
    plain = one_line(text.replace("_", " ")).strip(" ()")
    named = _NODES.search(plain)
    nodes = named.group(1) if named else ""
    lower = plain.lower()
    code = next((found for start, found in _SENTENCES.items() if lower.startswith(start)), "")
    code = code or plain.partition(",")[0].strip() or "None"
    found = TABLE.get(code) or _limit(code)
    return replace(found, nodes=nodes) if nodes else found


def _limit(code: str) -> Reason:
    """The families that man squeue writes as ``AssocGrp*Limit``, ``QOSMax*Limit`` and so on."""
    found = _LIMIT.fullmatch(code)
    if found is None:
        return Reason(code, "unknown", f"Slurm says {code!r}.", "Ask the administrators what it means here.")
    who = {"Assoc": "your account", "QOS": "the QOS"}.get(found["who"] or "", "the QOS or your account")
    what = _WHAT.get(found["what"], found["what"].lower() if found["what"] != "CPU" else "CPU")
    if found["per"] in ("PerJob", "PerNode"):
        return Reason(
            code,
            "never",
            f"It is over the {what} limit that {who} sets for one job.",
            "Cancel it and submit it again with less.",
        )
    if found["sum"]:
        return Reason(
            code,
            "limit",
            f"It would use more {what} time than {who} has left.",
            "Wait until the budget is renewed, ask for a shorter --time, or for more budget.",
        )
    share = _PER.get(found["per"] or "", "for all its jobs together" if found["how"] == "Grp" else "")
    return Reason(
        code,
        "limit",
        f"Running jobs use up the {what} limit of {who}{' ' if share else ''}{share}.",
        "Wait until some of them end, or ask for less.",
    )
