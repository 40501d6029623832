"""sinfo and scontrol: partitions, GPUs, and the settings that decide how jobs end."""

from __future__ import annotations

import pytest

from hpcpools.slurm import site
from tests.unit.slurm import SEPARATOR, captured
from tests.unit.slurm.conftest import Fake

SITE = site.parse_config(captured("config.txt"), site.parse_partitions(captured("sinfo.txt"), SEPARATOR))


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", 4),
        ("gpu", 1),
        ("gpu:a100:8(S:0-1)", 8),
        ("gpu:a100:8(S:0,1)", 8),
        ("gpu:a100:4,gpu:h100:4,shard:16", 8),
        ("gpu:a100_1g.5gb:7(S:0),gpu:a100:1", 8),
        ("gpu:tesla:no_consume:2", 2),
        ("shard:16,gpu:2(IDX:0-1)", 2),
        ("craynetwork:4,hbm:1G", 0),
        ("mygpu:4", 0),
        ("(null)", 0),
        ("", 0),
    ],
)
def test_gpu_count(gres: str, gpus: int) -> None:
    """Types are summed, sockets and other resources are not GPUs."""
    assert site.gpu_count(gres) == gpus


def test_partitions() -> None:
    """A partition of unlike nodes promises what each of them has: 2 GPUs where the nodes have 4, 4 and 2."""
    assert SITE.partitions == (
        site.Partition("gpu", True, 3, 2, 4, 2000, 3 * 1440, 60, "up"),
        site.Partition("low", False, 2, 4, 8, 4000, None, None, "up"),
        site.Partition("cpu", False, 1, 0, 4, 2000, 120, None, "up"),
    )


def test_nodes_without_gpus_do_not_count() -> None:
    """CPU nodes in a GPU partition do not make it one without GPUs; a kind of no nodes does not count."""

    def row(nodes: str, gres: str) -> str:
        cells = ["mix", "down", "infinite", "n/a", nodes, "64+", "256000+", gres]
        return "".join(cell + SEPARATOR for cell in cells) + "\n"

    (mix,) = site.parse_partitions(row("2", "(null)") + row("3", "gpu:8") + row("0", "gpu:1"), SEPARATOR)
    assert (mix.gpus_per_node, mix.nodes, mix.cpus_per_node, mix.memory_mb) == (8, 5, 64, 256000)
    (empty,) = site.parse_partitions(row("0", "(null)"), SEPARATOR)
    assert (empty.nodes, empty.gpus_per_node, empty.state) == (0, 0, "down")


def test_partition_by_name() -> None:
    """No name means the default partition."""
    assert SITE.partition() == SITE.partition("gpu") == SITE.partitions[0]
    assert SITE.partition("none") is None


def test_config() -> None:
    """The settings of a real 22.05."""
    assert (SITE.cluster_name, SITE.version, SITE.has_accounting) == ("bench", "22.05.8", True)
    assert (SITE.kill_wait_s, SITE.min_job_age_s, SITE.max_array_size) == (5, 300, 1001)
    assert (SITE.job_requeue, SITE.preempt_mode, SITE.stores_comments) == (True, "REQUEUE", True)
    assert SITE.preempt_sends_signal


@pytest.mark.parametrize(
    ("text", "accounting", "signal"),
    [
        ("AccountingStorageType = accounting_storage/none\nPreemptParameters = (null)", False, False),
        (
            "AccountingStorageType = (null)\nPreemptParameters = min_exempt_priority=3,send_user_signal",
            False,
            True,
        ),
        (
            "AccountingStorageType = accounting_storage/slurmdbd\nSlurmctldParameters = enable_configless",
            True,
            False,
        ),
        ("", False, False),
    ],
)
def test_other_sites(text: str, accounting: bool, signal: bool) -> None:
    """Sites without accounting, and the newer name of the preemption signal's setting."""
    read = site.parse_config(text, ())
    assert (read.has_accounting, read.preempt_sends_signal, read.partition()) == (accounting, signal, None)


def test_two_calls(fake: Fake) -> None:
    """A site is read with one sinfo and one scontrol."""
    runner = fake(
        sinfo='for last; do :; done; s="${last##*:512}"; for cell in "p*" up 1:00:00 n/a 1 8 4000 gpu:4; '
        'do printf "%s%s" "$cell" "$s"; done; echo',
        scontrol="echo 'ClusterName             = lab'",
    )
    read = site.read_site(runner)
    assert read.cluster_name == "lab"
    assert read.partition() == site.Partition("p", True, 1, 4, 8, 4000, 60, None, "up")
    assert {name: calls.count for name, calls in runner.calls.items()} == {"sinfo": 1, "scontrol": 1}
