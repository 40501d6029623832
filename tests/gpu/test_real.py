"""The real binding: against a stub library always, against the real driver where there is a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcpools import gpu
from hpcpools.gpu import checks, probe, processes, reading
from hpcpools.gpu.reading import Links, NodeReading
from hpcpools.schema import GpuChecks
from hpcpools.training import nodeenv
from tests.gpu.fake_nvml import HEALTHY

HERE = Path(__file__).parent
LIMITS = GpuChecks()


def read(*granted: str, since: int = 0, **env: str) -> NodeReading:
    """One bounded reading in its child process."""
    return probe.read(granted, since, call_timeout=5, total_timeout=10, env={**os.environ, **env})


def test_every_name_we_ask_exists_in_the_binding() -> None:
    """What the fake answers, nvidia-ml-py has too."""
    import pynvml

    asked = set(re.findall(r"nvml\.((?:c_)?nvml\w+)", Path(reading.__file__).read_text()))
    assert len(asked) > 20
    assert [name for name in sorted(asked | HEALTHY.keys()) if not hasattr(pynvml, name)] == []
    assert pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION == reading.RECOVERY_ACTION
    assert pynvml.nvmlMemory_v2 == reading.MEMORY_V2


def test_the_binding_s_structures_are_read_right(tmp_path: Path) -> None:
    """A stub of the C library: numbers come through ctypes, missing functions are no finding."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the stub library cannot be built")
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "stub.c"], check=True)
    found = read("0", "1", LD_LIBRARY_PATH=str(tmp_path))
    assert (found.status, found.visible) == ("read", 2), found.detail
    first, second = found.gpus
    assert (first.name, first.uuid, first.memory_used, first.memory_total) == (
        "Stub",
        "GPU-stub-0",
        5 << 20,
        80 << 30,
    )
    assert (first.recovery, first.fabric_state, first.mig, first.temperature) == (0, 3, None, None)
    assert (first.remap_pending, first.remap_failure, first.links) == (False, False, None)
    assert (first.ecc_uncorrected, second.ecc_uncorrected) == (0, 7)
    assert [str(one) for one in checks.judge(found, LIMITS, 2)] == [
        "GPU-6 FAIL on GPU 1 (GPU-stub-1): 7 uncorrected ECC errors"
    ]


def test_a_crash_inside_nvml_fails_the_node(tmp_path: Path) -> None:
    """The child dies, not the job."""
    (tmp_path / "pynvml.py").write_text(
        "import os, signal\n"
        "class NVMLError(Exception): pass\n"
        "def nvmlInit(): os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    found = read("0", PYTHONPATH=str(tmp_path))
    assert (found.status, found.detail) == ("failed", "nvmlInit crashed with SIGSEGV")
    assert checks.failed(checks.judge(found, LIMITS, 1))


def test_a_bug_of_ours_is_no_fault_of_the_node(tmp_path: Path) -> None:
    """A child that ends in a Python error is noted, and refuses nothing."""
    (tmp_path / "pynvml.py").write_text("raise RuntimeError('not the GPU')\n")
    found = read("0", PYTHONPATH=str(tmp_path))
    assert found.status == "not started"
    assert checks.judge(found, LIMITS, 1) == ()


@pytest.fixture
def real() -> NodeReading:
    """The GPUs of this machine."""
    if gpu.count() == 0:
        pytest.skip("no NVIDIA GPU on this machine")
    return read()


def test_a_real_gpu_is_read_within_the_budget(real: NodeReading) -> None:
    """Every number is of the right kind, within ten seconds; the checks give some verdict."""
    began = time.monotonic()
    again = read()
    assert time.monotonic() - began < 10
    assert (again.status, again.visible) == ("read", gpu.count())
    for one in again.gpus:
        assert one.uuid.startswith("GPU-")
        assert not one.lost
        assert one.memory_total is None or one.memory_total > 1 << 30
        assert one.links is None or isinstance(one.links, Links)
    checks.judge(again, LIMITS, gpu.count())


def test_a_foreign_process_on_a_real_gpu_is_named(real: NodeReading) -> None:
    """2 GiB held by a process that was there before us: FAIL with its pid; gone with it."""
    torch = pytest.importorskip("torch", reason="torch allocates the memory")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    hold = (
        "import torch; x = torch.empty(2 << 30, dtype=torch.uint8, device='cuda')\n"
        "print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        since = nodeenv.process_start(holder.pid) + 1
        found = checks.judge(read(since=since), LIMITS, 1)
        holder.communicate(b"\n")
    assert checks.failed(found)
    if processes.pids_match():
        assert f"foreign process {holder.pid}" in " ".join(map(str, found))
