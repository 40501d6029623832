"""The fake's sbatch: the job is durable in the fake's folder before its id is printed.

Source of the words: Slurm 22.05's, see ``hpcpools.slurm.failure`` for those who read them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hpcpools.errors import SlurmRefusedError, UnavailableError, UsageError
from hpcpools.testing import options, placement, scheduling
from hpcpools.testing.cluster import hostlist
from hpcpools.testing.formats import moment
from hpcpools.testing.options import Request, UnknownOptionError
from hpcpools.testing.world import Spec, Store, World

TIMED_OUT = "Socket timed out on send/recv operation"


def main(store: Store, words: Sequence[str], env: Mapping[str, str], folder: str) -> int:
    """One call; its exit code."""
    try:
        asked = options.parse_words(words)
        title, text = _script(asked)
        known = {**options.parse_script(text), **asked.options}
        if known.get("export", "ALL") != "ALL":
            raise UnknownOptionError(
                "unrecognized option '--export'", hint="the fake Slurm knows only --export=ALL"
            )
        return _submit(store, asked, known, title, text, env, folder)
    except UnknownOptionError as error:
        print(f'sbatch: {error.message}\nTry "sbatch --help" for more information', file=sys.stderr)
        print(f"sbatch: {error.hint}", file=sys.stderr)
        return 255
    except UsageError as error:
        return _failed(error.message, 255)
    except UnavailableError as error:
        return _failed(error.message)
    except SlurmRefusedError as error:
        if "test-only" in asked.options:
            print(f"allocation failure: {error.message}", file=sys.stderr)
            return 1
        return _refused(error.message)


def _submit(
    store: Store,
    asked: Request,
    known: Mapping[str, str],
    title: str,
    text: str,
    env: Mapping[str, str],
    folder: str,
) -> int:
    with store.change() as world:
        default = world.cluster.partition("")
        spec = options.spec(known, title, folder, default.name if default else "")
        begin = options.begin(known.get("begin", ""), world.now)
        elements, parallel = options.indices(known.get("array", ""))
        faults = world.faults
        if faults.refuse:
            faults.refuse -= 1
            return _refused(faults.words)
        _words_before(world, spec)
        if "test-only" in known:
            scheduling.check(world, spec)
            return _would(world, spec, env)
        spec.command = str(asked.script.absolute()) if asked.script else "(null)"
        spec.arguments = asked.arguments
        number = scheduling.submit(
            world, spec, indices=elements, parallel=parallel, begin=begin, held="hold" in known
        )
        _keep(store.folder / "jobs" / str(number), text, env)
        if world.auto:
            scheduling.schedule(world, store.folder)
        if faults.accept:
            faults.accept -= 1
            return _refused(TIMED_OUT)
    print(number if "parsable" in known else f"Submitted batch job {number}")
    return 0


def _words_before(world: World, spec: Spec) -> None:
    """What Slurm says in a line of its own before it refuses."""
    partition = world.cluster.partition(spec.partition)
    if partition is None:
        _failed(f"invalid partition specified: {spec.partition}")
    elif spec.memory > max(node.memory for node in world.cluster.of(partition)):
        _failed("Memory specification can not be satisfied")


def _script(asked: Request) -> tuple[str, str]:
    """Its name and its text. Raises UnavailableError."""
    if "wrap" in asked.options:
        return "wrap", f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{asked.options['wrap']}\n"
    name, text = "sbatch", ""
    if asked.script is None:
        text = sys.stdin.read()
    else:
        name = asked.script.name
        try:
            text = asked.script.read_bytes().decode(errors="surrogateescape")
        except OSError:
            raise UnavailableError(f"Unable to open file {asked.script}", hint="see sbatch(1)") from None
    if not text:
        raise UnavailableError("Batch script is empty!", hint="see sbatch(1)")
    if not text.startswith("#!"):
        raise UnavailableError("This does not look like a batch script", hint="see sbatch(1)")
    if "\r\n" in text:
        raise UnavailableError("Batch script contains DOS line breaks (\\r\\n)", hint="see sbatch(1)")
    return name, text


def _keep(folder: Path, text: str, env: Mapping[str, str]) -> None:
    """The script and the environment, for us alone: the environment may hold secrets."""
    folder.mkdir(mode=0o700, parents=True)
    script = folder / "slurm_script"
    script.write_text(text, errors="surrogateescape")
    script.chmod(0o700)
    kept = folder / "environment.json"
    kept.touch(mode=0o600)
    kept.write_bytes(msgspec.json.encode(dict(env)))


def _would(world: World, spec: Spec, env: Mapping[str, str]) -> int:
    """``--test-only``: when and where, without a place in the queue; the id is used up, as in Slurm."""
    number = scheduling.submit(world, spec, indices=[], parallel=0, begin=0.0, held=False)
    job = world.jobs.pop()
    partition = world.cluster.partition(spec.partition)
    suited = placement.suited(world, partition, spec) if partition else []
    nodes = placement.find(world, job) or [node.name for node in suited[: spec.nodes]]
    cpus = sum(placement.cpus(spec, node) for node in suited if node.name in nodes)
    when = moment(world.now, env)
    said = f"Job {number} to start at {when} using {cpus} processors on nodes {hostlist(nodes)}"
    print(f"sbatch: {said} in partition {spec.partition}", file=sys.stderr)
    return 0


def _refused(words: str) -> int:
    return _failed(f"Batch job submission failed: {words}")


def _failed(words: str, code: int = 1) -> int:
    print(f"sbatch: error: {words}", file=sys.stderr)
    return code
