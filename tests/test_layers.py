"""The house in one test: layers import downwards only, each library has one home, files stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "hpcpools"

# Lower number = lower layer; a module may import its own layer (same folder) and what is below.
LAYERS = {
    "errors": 0, "atomic": 0, "interpreter": 0, "safepath": 0, "account": 0, "textsafe": 1, "durations": 1,
    "eventlog": 2, "explanation": 2, "formats": 2, "declare": 2, "schema": 2, "config": 2, "catalog": 3,
    "runs": 4, "slurm": 4, "redisdb": 4, "gpu": 4,
    "training": 5, "short": 5,
    "pipeline": 6, "lane": 6,
    "maintenance": 7,
    "services": 8,
    "failures": 6, "doctor": 9, "monitoring": 9, "dashboard": 9, "api": 9, "compose": 9,
    "overview": 9, "report": 9, "templates": 9, "testing": 9,
    "deploy": 10, "top": 10,
    "cli": 11, "demo": 12, "__main__": 12, "__init__": 12,
}  # fmt: skip

HOMES = {
    "submitit": ("training/executors.py", "lane/executor.py"),
    "rq": ("short/", "lane/worker.py"),
    "rq_scheduler": ("short/schedule.py",),
    "redis": ("redisdb/",),
    "pynvml": ("gpu/nvml.py",),
    "click": ("cli/", "demo/"),
    "rich": ("cli/", "top/"),
    "textual": ("top/",),
    "matplotlib": ("report/",),
    "plotext": ("report/",),
    "prometheus_client": ("monitoring/",),
    "flask": ("dashboard/",),
    "werkzeug": ("dashboard/",),
    "waitress": ("dashboard/",),
    "torch": ("training/elastic.py", "training/torchstate.py", "training/shuffle.py", "demo/digits.py"),
    "sklearn": ("demo/digits.py",),
    "pickle": (),
    "cloudpickle": (),
}

# What a compute node imports: it never opens Redis and runs no Slurm command.
ON_NODE = ("training/node.py", "training/element.py", "training/rank.py", "training/launch.py",
           "training/group.py", "training/child.py", "training/ending.py", "training/oom.py",
           "training/context.py", "training/nodeenv.py", "training/elastic.py", "training/imports.py",
           "training/machine.py", "training/preflight.py", "training/sampler.py", "training/torchstate.py",
           "training/shuffle.py", "lane/node.py", "lane/task.py")  # fmt: skip
NODE_MAY = {"runs", "atomic", "errors", "interpreter", "gpu", "durations", "textsafe", "declare"}
NODE_MAY_OF_SHORT = {"short.outcome", "short.process"}  # they know neither rq nor Redis

# The third is a stranger's: the commands of the fake Slurm, each a process that is started very often.
ENVIRONMENT = ("config.py", "training/nodeenv.py", "testing/commands.py")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package, by its path."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names imported anywhere in a module, type-checking blocks left out."""
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> str:
    """The part of a path or a dotted name that has a place in the table."""
    return name.removesuffix(".py").split("/")[0].split(".")[0]


def own(tree: ast.Module) -> Iterator[str]:
    """The parts of hpcpools that a module imports."""
    for name in imports(tree):
        if name.startswith("hpcpools.") and layer(name.removeprefix("hpcpools.")) in LAYERS:
            yield layer(name.removeprefix("hpcpools."))


def test_layers_import_downwards_only() -> None:
    """Never upwards, never sideways between the pools."""
    wrong = [
        f"{path} imports {part}"
        for path, tree in modules()
        for part in own(tree)
        if path != "__init__.py" and part != layer(path) and LAYERS[part] >= LAYERS[layer(path)] > 3
    ]
    assert wrong == []


def test_every_module_has_a_layer() -> None:
    """A new folder needs a place in the house."""
    assert {layer(path) for path, _ in modules()} <= set(LAYERS)


def test_each_library_has_one_home() -> None:
    """A change of a library touches one place."""
    wrong = [
        f"{path} imports {name}"
        for path, tree in modules()
        for name in {found.split(".")[0] for found in imports(tree)}
        if name in HOMES and not any(path.startswith(home) for home in HOMES[name])
    ]
    assert wrong == []


def test_the_environment_has_two_readers() -> None:
    """The configuration on the login side, the node's environment on the node."""
    wrong = [
        path
        for path, tree in modules()
        if path not in ENVIRONMENT
        and any(
            isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") for node in ast.walk(tree)
        )
    ]
    assert wrong == []


def test_compute_nodes_open_no_redis_and_run_no_slurm() -> None:
    """What starts on a node imports the run directory and little else."""
    wrong = [
        f"{path} imports {part}"
        for path, tree in modules()
        if path in ON_NODE
        for part in own(tree)
        if part not in NODE_MAY | {"training", "lane"} and not (part == "short" and _harmless(tree))
    ]
    assert wrong == []


def _harmless(tree: ast.Module) -> bool:
    """Of the short pool a module imports only what a node may have."""
    found = {name.removeprefix("hpcpools.") for name in imports(tree)}
    return {name for name in found if name.startswith("short.")} <= NODE_MAY_OF_SHORT


def test_only_slurm_names_slurm_s_commands() -> None:
    """The words squeue, sbatch and the rest are literals of one folder, and of the fake Slurm."""
    commands = {"squeue", "sacct", "scontrol", "sbatch", "scancel", "sinfo"}
    wrong = [
        path
        for path, tree in modules()
        if not path.startswith(("slurm/", "testing/"))
        and any(isinstance(node, ast.Constant) and node.value in commands for node in ast.walk(tree))
    ]
    assert wrong == []


def test_files_are_read_in_one_sitting() -> None:
    """About 300 lines at most."""
    long = {path: lines for path, lines in sizes() if lines > 320}
    assert long == {}


def sizes() -> Iterator[tuple[str, int]]:
    """Lines of every module."""
    for path in PACKAGE.rglob("*.py"):
        yield path.relative_to(PACKAGE).as_posix(), len(path.read_text().splitlines())
