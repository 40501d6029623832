"""The table of Slurm's reason codes: golden answers for the commonest, and no code without an answer."""

from __future__ import annotations

import pytest

from hpcpools.slurm import reasons

# code → (family, words that its cause must hold, words that its action must hold)
GOLDEN = {
    "Resources": ("wait", "Not enough free nodes", "Wait"),
    "Priority": ("wait", "higher priority", "--time"),
    "None": ("wait", "not looked at it", "Wait"),
    "BeginTime": ("wait", "earliest start time", "Wait"),
    "Dependency": ("wait", "another job to end", "Wait"),
    "DependencyNeverSatisfied": ("never", "ended in another way", "without the dependency"),
    "JobHeldUser": ("held", "You", "scontrol release"),
    "JobHeldAdmin": ("held", "administrator holds", "administrators"),
    "PartitionTimeLimit": ("never", "more time than the partition", "shorter --time"),
    "PartitionNodeLimit": ("never", "nodes than the partition allows", "another partition"),
    "PartitionDown": ("site", "closed", "another partition"),
    "PartitionInactive": ("site", "starts none", "another partition"),
    "ReqNodeNotAvail": ("site", "down, drained, reserved", "Wait"),
    "NodeDown": ("site", "node that it needs is down", "administrators"),
    "QOSMaxGRESPerUser": ("limit", "as many GPUs as the QOS allows one user", "fewer --gpus"),
    "QOSMaxJobsPerUserLimit": ("limit", "as many jobs", "Wait until one of yours ends"),
    "AssocGrpGRES": ("limit", "account's GPU limit", "fewer --gpus"),
    "AssocGrpGRESMinutes": ("limit", "GPU time than your account has left", "budget"),
    "QOSMaxWallDurationPerJobLimit": ("never", "more time", "shorter --time"),
    "BadConstraints": ("never", "No node can ever", "train --check"),
    "Licenses": ("wait", "licences", "Wait"),
    "Reservation": ("wait", "reservation has not begun", "Wait"),
    "InvalidAccount": ("never", "account is not valid", "--account"),
    "InvalidQOS": ("never", "QOS is not valid", "QOS"),
    "JobHoldMaxRequeue": ("held", "requeued too often", "scontrol release"),
}


@pytest.mark.parametrize("code", GOLDEN)
def test_golden_answers(code: str) -> None:
    """The commonest codes: what kind of wait it is, why, and what to do."""
    family, cause, action = GOLDEN[code]
    found = reasons.read(code)
    assert found.code == code
    assert found.family == family
    assert cause in found.cause
    assert action in found.action


def test_every_code_of_the_manual_has_an_answer() -> None:
    """squeue(1), JOB REASON CODES of Slurm 22.05; a star stands for its resources."""
    manual = """AssocGrpCpuLimit AssocGrpMemLimit AssocGrpNodeLimit AssocGrpWallLimit AssociationJobLimit
        AssocMaxCpuPerJobLimit AssocMaxJobsLimit AssocMaxNodePerJobLimit AssocMaxWallDurationPerJobLimit
        AssociationResourceLimit AssociationTimeLimit BadConstraints BeginTime Cleaning Dependency
        DependencyNeverSatisfied FrontEndDown InactiveLimit InvalidAccount InvalidQOS JobHeldAdmin JobHeldUser
        JobLaunchFailure Licenses NodeDown NonZeroExitCode PartitionDown PartitionInactive PartitionNodeLimit
        PartitionTimeLimit Priority Prolog QOSGrpCpuLimit QOSGrpGRES QOSGrpMemLimit QOSGrpNodeLimit
        QOSGrpWallLimit QOSGrpCPURunMinutesLimit QOSJobLimit QOSMaxCpuPerUserLimit QOSMaxMemoryPerUser
        QOSMaxNodePerUserLimit QOSMaxCpuPerJobLimit QOSMaxGRESPerJob QOSMaxGRESMinutesPerJob QOSMinGRES
        QOSResourceLimit QOSTimeLimit QOSUsageThreshold ReqNodeNotAvail Reservation Resources SystemFailure
        TimeLimit WaitingForScheduling MaxGRESPerAccount MaxMemoryPerAccount MaxNodePerAccount""".split()  # noqa: SIM905 - a list of the manual reads best as words
    assert [code for code in manual if reasons.read(code).family == "unknown"] == []
    assert len(reasons.TABLE) >= 40


def test_limits_are_read_by_their_parts() -> None:
    """A limit of one job never lets it start; one of all running jobs does when some end."""
    assert reasons.read("AssocMaxGRESPerJob").family == "never"
    assert "GPU limit of the QOS for one user" in reasons.read("QOSMaxGresPerUser").cause
    assert reasons.read("QOSGrpMemLimit").family == "limit"
    assert "memory" in reasons.read("QOSGrpMemLimit").cause


def test_slurm_s_sentences_and_node_lists() -> None:
    """What squeue shows in the place of a code, with spaces or with underscores."""
    found = reasons.read("ReqNodeNotAvail, UnavailableNodes:n[1-3],n7")
    assert (found.code, found.nodes) == ("ReqNodeNotAvail", "n[1-3],n7")
    assert reasons.read("ReqNodeNotAvail,_UnavailableNodes:n1").nodes == "n1"
    assert reasons.read("launch failed requeued held").family == "held"
    sentence = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"
    assert reasons.read(sentence.replace(" ", "_")).family == "site"
    assert reasons.read(f"({sentence})").family == "site"


def test_an_unknown_code_is_shown_as_it_is() -> None:
    """A newer Slurm, or hostile text: never a guess, never a control character."""
    found = reasons.read("BrandNewReason\x1b[31m")
    assert found.family == "unknown"
    assert "BrandNewReason" in found.cause
    assert "\x1b" not in found.cause
