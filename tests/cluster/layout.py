"""What a lab consists of: its variants, nodes, ports and the text of its configuration files.
Pure: writes nothing and starts nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

GPUS_PER_NODE = 4
ADDRESS = "127.0.0.1"
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("freezer", "memory")  # of cgroup v1: Slurm's process tracking and its memory limit
PORTS_NEEDED = 12  # controller, database daemon, and up to ten nodes


@dataclass(frozen=True)
class Variant:
    """One kind of site. `partitions` are lines of slurm.conf; the first is the default partition.

    `memory_mb` is what each node says it has; with `cgroup` the kernel holds jobs to what they asked for.
    """

    name: str
    nodes: tuple[str, ...]
    first_port: int
    accounting: bool
    partitions: tuple[str, ...]
    memory_mb: int = 4000
    cgroup: bool = False


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            name="accounting",
            nodes=("n1", "n2", "n3", "n4"),
            first_port=16800,
            accounting=True,
            partitions=(
                "gpu Nodes=n[1-3] Default=YES MaxTime=1-00:00:00 PriorityTier=10 PreemptMode=off",
                "low Nodes=n[1-3] MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=requeue GraceTime=2",
                "cpu Nodes=n4 MaxTime=4:00:00",
            ),
        ),
        Variant(
            name="plain",
            nodes=("m1", "m2"),
            first_port=16840,
            accounting=False,
            partitions=("gpu Nodes=m[1-2] Default=YES MaxTime=1-00:00:00",),
        ),
        Variant(
            name="memory",
            nodes=("o",),
            first_port=16880,
            accounting=True,
            partitions=("gpu Nodes=ALL Default=YES MaxTime=1-00:00:00",),
            memory_mb=300,  # a training that outgrows it must not hurt the machine
            cgroup=True,
        ),
    )
}


def apart(variant: Variant, root: Path) -> Variant:
    """The variant with node names of this lab's own: Slurm names a node's cgroups after the node, and two
    labs on one machine must not kill each other's jobs."""
    mark = hashlib.sha256(str(root).encode()).hexdigest()[:6]
    return replace(variant, nodes=tuple(f"{node}{mark}" for node in variant.nodes))


@dataclass(frozen=True)
class Site:
    """Where a lab lives on this machine.

    `narrow` says that this host's name resolves to 127.0.0.1. Slurm can bind to nothing narrower than "the
    address of the host name", so only then do its ports listen on 127.0.0.1 alone. (With the 127.0.1.1 that
    Debian gives laptops, srun would listen where its steps do not call.)
    """

    root: Path
    host: str
    narrow: bool
    first_port: int

    @property
    def munge_socket(self) -> Path:
        """Socket of the lab's own munged."""
        return self.root / "run" / "munge.socket"

    def port(self, index: int) -> int:
        """0 is the controller, 1 the database daemon, 2 and up the nodes."""
        return self.first_port + index


def slurm_conf(site: Site, variant: Variant) -> str:
    """Return slurm.conf: everything under the lab's directory, turn-around as fast as Slurm allows."""
    root = site.root
    lines = [
        f"ClusterName=lab-{variant.name}",
        f"SlurmctldHost={site.host}({ADDRESS})",
        f"SlurmctldPort={site.port(0)}",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={site.munge_socket},cred_expire=5",  # a requeued job waits this long
        *(["CommunicationParameters=NoInAddrAny,NoCtldInAddrAny"] if site.narrow else []),
        f"StateSaveLocation={root}/state",
        f"SlurmdSpoolDir={root}/spool/%n",
        f"SlurmctldPidFile={root}/run/slurmctld.pid",
        f"SlurmdPidFile={root}/run/%n.pid",
        f"SlurmctldLogFile={root}/log/slurmctld.log",
        f"SlurmdLogFile={root}/log/%n.log",
        f"ProctrackType=proctrack/{'cgroup' if variant.cgroup else 'linuxproc'}",
        f"TaskPlugin=task/{'cgroup' if variant.cgroup else 'none'}",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=2",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "ReturnToService=2",
        "JobRequeue=1",
        "KillWait=5",
        "MessageTimeout=5",
        "SlurmdTimeout=10",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmctldParameters=preempt_send_user_signal",
        "SlurmdParameters=config_overrides",  # nodes larger than this machine
        "GresTypes=gpu",
        *_accounting(site, variant),
    ]
    for index, node in enumerate(variant.nodes):
        lines.append(
            f"NodeName={node} NodeHostname={site.host} NodeAddr={ADDRESS} Port={site.port(2 + index)}"
            f" CPUs=8 RealMemory={variant.memory_mb} Gres=gpu:{GPUS_PER_NODE}"
        )
    lines += [f"PartitionName={partition}" for partition in variant.partitions]
    return "\n".join(lines) + "\n"


def gres_conf(site: Site, variant: Variant) -> str:
    """Return gres.conf: each GPU is a device node of the lab's own."""
    return "".join(
        f"NodeName={node} Name=gpu File={site.root}/dev/{node}-gpu[0-{GPUS_PER_NODE - 1}]\n"
        for node in variant.nodes
    )


def cgroup_conf() -> str:
    """Return cgroup.conf: memory alone is held. Never devices: all fake GPUs share a device number."""
    lines = ("CgroupPlugin=cgroup/v1", f"CgroupMountpoint={CGROUPS}", "ConstrainRAMSpace=yes")
    return "\n".join(lines) + "\n"


def slurmdbd_conf(site: Site) -> str:
    """Return slurmdbd.conf. The database's socket is not in it: libmariadb takes it from MYSQL_UNIX_PORT."""
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={site.munge_socket}",
        f"DbdHost={site.host}",
        f"DbdAddr={ADDRESS}",
        f"DbdPort={site.port(1)}",
        *(["CommunicationParameters=NoInAddrAny"] if site.narrow else []),
        "SlurmUser=root",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        "StorageUser=root",
        "StorageLoc=slurm_acct",
        f"LogFile={site.root}/log/slurmdbd.log",
        f"PidFile={site.root}/run/slurmdbd.pid",
    ]
    return "\n".join(lines) + "\n"


def _accounting(site: Site, variant: Variant) -> list[str]:
    if not variant.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={ADDRESS}",
        f"AccountingStoragePort={site.port(1)}",
        f"AccountingStoragePass={site.munge_socket}",  # with munge, this is its socket
        "AccountingStorageTRES=gres/gpu",
    ]
