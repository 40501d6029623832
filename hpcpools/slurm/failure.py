"""What the failure texts of Slurm's commands mean: refused, nothing queued for now, or nobody knows.

Only words that Slurm is known to say count as an answer; any other text stays unknown (REL-10, REL-12).
"""

from __future__ import annotations

import re
from typing import Literal

from hpcpools.textsafe import one_line

Verdict = Literal["refused", "not_queued", "unknown"]

# slurm_strerror() of what slurmctld answers in place of a job id. Texts that a broken connection can also
# give ("Unspecified error", "Resource temporarily unavailable", "receive failure") are left out on purpose.
_REFUSALS = """
Access denied to requested reservation
Access/permission denied
Burst Buffer permission denied
Burst Buffer request invalid
Burst Buffer resource limit exceeded
CPU count specification invalid
Cannot request more threads per core than the job allocation
Circular job dependency
Environment is missing in job
Invalid --nice value
Invalid GRES specification (with and without type identification)
Invalid Trackable RESource (TRES) specification
Invalid account or account/partition combination specified
Invalid feature specification
Invalid generic resource (gres) specification
Invalid group id
Invalid job array specification
Invalid job id specified
Invalid license specification
Invalid mcs_label specified
Invalid node name specified
Invalid partition name specified
Invalid preferred feature specification
Invalid qos specification
Invalid time specified
Invalid time-min specification (exceeds job's time or other limits)
Invalid user id
Invalid wckey specification
Job --batch option is invalid or not a subset of --constraints
Job dependency problem
Job script not specified
Job size specification needs to be provided
Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)
Memory required by task is not available
More processors requested than permitted
No partition specified or system default partition
Node count specification invalid
Only batch jobs are accepted or processed
Partition in DOWN state
Pathname of a file, directory or other parameter too long
Requested GRES option unsupported by configured SelectType plugin
Requested account has breached requested QOS usage threshold
Requested more tasks than available processors
Requested node configuration is not available
Requested nodes not in this partition
Requested operation not supported on this system
Requested partition configuration not available now
Requested reservation is invalid
Requested reservation not usable now
Requested time limit is invalid (missing or exceeds some limit)
Required node not available (down, drained or reserved)
Required partition not available (inactive or drain)
System submissions disabled
Task count specification invalid
Task distribution specification invalid
Time limit specification required, but not provided
User's group not permitted to use this partition
"""
# Nothing was sent, or slurmctld dropped it: the same request may simply be made again later.
_NOT_QUEUED = """
Unable to contact slurm controller (connect failure)
Slurm backup controller in standby mode
Controller is in standby mode, try a different controller
Unable to create job record, try again
I/O error writing script/environment to file
"""
REFUSALS = frozenset(_REFUSALS.strip().splitlines())
NOT_QUEUED = frozenset(_NOT_QUEUED.strip().splitlines())

_ANSWER = re.compile(r"^(?:.*error: Batch job submission failed|allocation failure): (.+)$", re.MULTILINE)
# sbatch ended by itself before it spoke to slurmctld.
_LOCAL_REFUSAL = re.compile(
    r"^sbatch: (?:unrecognized option|option(?: .*)? requires an argument|invalid option --"
    r"|(?:error|fatal): (?:Invalid --\S+ specification|Invalid numeric value|Invalid directive found"
    r"|Invalid generic resource|Unable to open file|This does not look like a batch script"
    r"|Batch script (?:is empty|contains DOS line breaks)))",
    re.MULTILINE,
)
_NO_CONFIGURATION = re.compile(
    r"^\w+: fatal: (?:Could not establish a configuration source|Unable to process configuration file)",
    re.MULTILINE,
)
_NO_CREDENTIAL = re.compile(r"^\w+: error: \w+: auth_g_create: \w+ has authentication error", re.M)


def of_submission(stderr: str) -> Verdict:
    """The verdict on a failed ``sbatch`` that ended by itself."""
    if _NO_CREDENTIAL.search(stderr) or _NO_CONFIGURATION.search(stderr):
        return "not_queued"
    if answers := _ANSWER.findall(stderr):
        return _of_answer(answers[-1].strip())
    return "refused" if _LOCAL_REFUSAL.search(stderr) else "unknown"


def of_query(stderr: str) -> Verdict:
    """The verdict on any other failed command: the last ``...: words`` decides."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    return _of_answer(lines[-1].rpartition(": ")[2].strip()) if lines else "unknown"


def words(stderr: str, stdout: str = "") -> str:
    """Slurm's own words in one safe line, for a message; the last three lines at most."""
    lines = [line.strip() for line in (stderr or stdout).splitlines() if line.strip()]
    said = (re.sub(r"^\w+: (?:error|fatal): ", "", line) for line in lines[-3:])
    return one_line("; ".join(said)) or "no message"


def _of_answer(answer: str) -> Verdict:
    if answer in REFUSALS:
        return "refused"
    return "not_queued" if answer in NOT_QUEUED else "unknown"
