"""Sweeps: what the words mean, which points they give, how arrays are cut, and which run an element is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcpools.errors import PermissionsError, UsageError
from hpcpools.runs import sweeps
from hpcpools.runs.request import digest
from hpcpools.runs.sweeps import Definition, Element, Sampling, SweepDirectory, SweepFile
from hpcpools.runs.token import new_sweep_id, new_token
from hpcpools.slurm import records
from hpcpools.slurm.queue import Job
from hpcpools.training import arrays, grid, results
from hpcpools.training.results import Row

FILE = """
target = "tasks:fit"
max_parallel = 3
[fixed]
epochs = 2
[grid]
lr = [1e-4, 1e-3]
seed = "0..2"
[random]
count = 2
seed = 7
[random.choose]
dropout = {low = 0.0, high = 0.5}
width = {low = 1e-5, high = 1e-1, log = true}
layers = {low = 2, high = 4}
optimizer = ["adam", "sgd"]
"""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1e-4,1e-3,1e-2", [1e-4, 1e-3, 1e-2]),
        ("0..4", [0, 1, 2, 3, 4]),
        ("-1..1,5", [-1, 0, 1, 5]),
        ("adam,sgd", ["adam", "sgd"]),
        ("true,null", [True, None]),
        ("[1,2],[3]", [[1, 2], [3]]),
        ('"a,b",c', ["a,b", "c"]),
        ('{"a":[1,2],"b":"}"}', [{"a": [1, 2], "b": "}"}]),
        ("", [""]),
        ("0.5", [0.5]),
        ("data/..", ["data/.."]),
    ],
)
def test_values(text: str, wanted: list[object]) -> None:
    """Lists, whole-number ranges and single values; JSON where it is JSON; quotes hold commas."""
    assert grid.values("name", text) == wanted


@pytest.mark.parametrize("word", ["lr", "lr=1,,2", "9x=1", "a=5..1", "a=0..99999", "=1"])
def test_words_that_are_not_understood(word: str) -> None:
    """Refused with the word in the message."""
    with pytest.raises(UsageError):
        grid.define([word], "tasks:fit")


def test_a_name_given_twice() -> None:
    """On the line, or in two tables of the file."""
    with pytest.raises(UsageError, match="twice"):
        grid.define(["lr=1", "lr=2"], "tasks:fit")
    with pytest.raises(UsageError, match="twice"):
        grid.define([], text='target = "t:f"\n[fixed]\na = 1\n[grid]\na = [1, 2]\n')


def test_points_of_a_grid() -> None:
    """Every combination once, in order, the last axis fastest; single values are the same for all."""
    found = grid.points(grid.define(["lr=1e-4,1e-3", "seed=0..1", "epochs=3"], "tasks:fit"))
    assert found == [{"epochs": 3, "lr": lr, "seed": seed} for lr in (1e-4, 1e-3) for seed in (0, 1)]
    assert grid.varied(found) == ["lr", "seed"]
    assert grid.points(grid.define([], "tasks:fit")) == [{}]


def test_a_command_with_places_for_values() -> None:
    """Word by word, nothing else replaced; a text as it is, all else as JSON."""
    words = ("python", "train.py", "--lr={lr}", "{name}", "{{lr}}", '{"a": {seed}}', "{}", "$HOME")
    definition = grid.define(["lr=1e-4,2", "seed=0..1", "name=a b; rm $x"], command=words)
    assert definition.what.startswith("python train.py")
    filled = [grid.fill(definition.command, point) for point in grid.points(definition)]
    assert filled[0] == ("python", "train.py", "--lr=0.0001", "a b; rm $x", "{lr}", '{"a": 0}', "{}", "$HOME")
    assert [line[2] for line in filled] == ["--lr=0.0001"] * 2 + ["--lr=2"] * 2
    point = {"lr": True, "name": "x", "seed": [1, None]}
    assert grid.fill(("{lr}", "{name}{seed}"), point) == ("true", "x[1, null]")
    file = 'command = ["./run", "{lr}"]\n[grid]\nlr = [1, 2]\n'
    assert grid.define([], text=file).command == ("./run", "{lr}")
    assert grid.define([], text=file, command=("other", "{lr}")).command == ("other", "{lr}")
    assert grid.define([], "tasks:fit", file).command == ()


@pytest.mark.parametrize(
    ("words", "command", "said"),
    [
        (["lr=1,2"], ("run", "{lr}", "{seed}"), "seed has no value"),
        (["lr=1,2", "seed=0"], ("run", "{lr}"), "seed is nowhere"),
        (["lr=1,2"], ("run", "{{lr}}"), "lr is nowhere"),
        ([], (), "what shall be trained"),
    ],
)
def test_commands_that_are_wrong(words: list[str], command: tuple[str, ...], said: str) -> None:
    """A place without a value, a value without a place."""
    with pytest.raises(UsageError, match=said):
        grid.define(words, command=command)
    with pytest.raises(UsageError, match="a target and a command"):
        grid.check(Definition("tasks:fit", command=("run",)))


def test_random_points_are_the_same_for_the_same_seed() -> None:
    """The draws of a seed never change; a larger count or another name changes none of them."""
    dials = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "layers": {"low": 2, "high": 4}}
    first = grid.samples(Sampling(3, 7, dials))
    assert first == grid.samples(Sampling(3, 7, dials))
    more = grid.samples(Sampling(5, 7, {"other": [1, 2], **dials}))
    assert [{name: row[name] for name in dials} for row in more[:3]] == first
    assert first != grid.samples(Sampling(3, 8, dials))
    many = grid.samples(Sampling(300, 1, dials))
    assert all(1e-4 <= row["lr"] < 1e-2 for row in many)
    assert {row["layers"] for row in many} == {2, 3, 4}
    assert 90 < sum(row["lr"] < 1e-3 for row in many) < 210  # half of the draws per decade
    assert grid.samples(Sampling(1, 0, {"x": {"low": 0.0, "high": 1.0}})) == [{"x": 0.9001888393778066}]


def test_a_file() -> None:
    """Grid times samples; the command line overrules by name, whichever table the name stands in."""
    definition = grid.define([], text=FILE)
    assert (definition.target, definition.max_parallel) == ("tasks:fit", 3)
    assert len(grid.points(definition)) == 2 * 3 * 2
    narrowed = grid.define(["seed=5", "dropout=0.1", "epochs=1,2"], "tasks:other", FILE, max_parallel=1)
    points = grid.points(narrowed)
    assert len(points) == 2 * 2 * 2
    assert {(p["seed"], p["dropout"]) for p in points} == {(5, 0.1)}
    assert {p["epochs"] for p in points} == {1, 2}
    assert (narrowed.target, narrowed.max_parallel) == ("tasks:other", 1)


@pytest.mark.parametrize(
    "text",
    [
        "target = ",
        "[grid]\nlr = []",
        "[random]\ncount = 0\n[random.choose]\na = [1]",
        "[random]\ncount = 2\n[random.choose]\na = {low = 2, high = 1}",
        "[random]\ncount = 2\n[random.choose]\na = {low = 0, high = 1, log = true}",
        "[random]\ncount = 2\n[random.choose]\na = {low = 0, high = true}",
        "[random]\ncount = 2\n[random.choose]\na = {min = 0, max = 1}",
        "[gird]\nlr = [1]",
        "[random]\ncount = 99999\n[random.choose]\na = [1]",
    ],
)
def test_files_that_are_wrong(text: str) -> None:
    """A UsageError, before anything is planned."""
    with pytest.raises(UsageError):
        grid.define([], "tasks:fit", text)


@pytest.mark.parametrize(
    ("count", "cap", "sizes"),
    [
        (1, 1001, [1]),
        (1000, 1001, [1000]),
        (1001, 1001, [1000, 1]),
        (2000, 1001, [1000, 1000]),
        (2000, 100_000, [1000, 1000]),
        (7, 3, [3, 3, 1]),
    ],
)
def test_arrays_stay_below_the_site_s_cap(count: int, cap: int, sizes: list[int]) -> None:
    """MaxArraySize caps the index: every array starts at 0, so its last index is below the cap."""
    assert arrays.split(count, cap) == sizes
    assert max(size - 1 for size in sizes) < cap


def test_a_site_without_arrays() -> None:
    """MaxArraySize=0 (slurm.conf(5)) disables them."""
    with pytest.raises(UsageError, match="no job arrays"):
        arrays.split(3, 0)


def test_arrays_share_the_limit() -> None:
    """All arrays of a sweep together keep to --max-parallel."""
    assert arrays.shares([1000, 1000], 5) == [3, 2]
    assert arrays.shares([6], 2) == [2]
    assert arrays.shares([6], 500) == [6]
    assert sum(arrays.shares([1000, 1000], 500)) == 500
    with pytest.raises(UsageError, match="2 arrays"):
        arrays.shares([1000, 1000], 1)


def made(root: Path) -> tuple[SweepDirectory, list[str]]:
    """A sweep of three runs on disk."""
    root.mkdir(mode=0o700)
    tokens = [new_token(1000.0 + at) for at in range(3)]
    content = SweepFile(new_sweep_id(1000.0), 1000.0, Definition("tasks:fit"), tuple(tokens))
    place = sweeps.create(root, content)
    assert place.read() == content
    return place, tokens


def test_an_element_s_job_is_its_run_s(tmp_path: Path) -> None:
    """(array's key, index) → token, for records of Slurm; a foreign or impossible one is left alone."""
    place, tokens = made(tmp_path / "runs")
    first = place.new_array([Element(token, 0, "x") for token in tokens], 2, 1000.0)
    again = place.new_array([Element(tokens[2], 1, "x")], 1, 2000.0)
    assert (first.key, again.key) == (f"{place.id}.0", f"{place.id}.1")
    assert records.token_of(first.key, "") == first.key
    assert records.token_of("the site's own comment", f"x {again.key}") == again.key
    foreign = f"{new_sweep_id(5.0)}.0"

    def job(job_id: str, token: str) -> Job:
        return Job(job_id=job_id, token=token, name="", state="RUNNING")

    jobs = [job("7_1", first.key), job("9_0", again.key), job("7_3", first.key), job("8_0", foreign)]
    found = [each.token for each in sweeps.resolved(place.root, [*jobs, job("5", tokens[0])])]
    assert found == [tokens[1], tokens[2], first.key, foreign, tokens[0]]
    assert place.array_of(tokens[2], 1) == again
    assert place.array_of(tokens[2], 0) == first
    assert place.array_of(tokens[0], 1) is None


def test_a_changed_manifest_starts_nothing(tmp_path: Path) -> None:
    """SEC-6: the digest in the script's argv must be the file's, and the file ours alone."""
    place, tokens = made(tmp_path / "runs")
    array = place.new_array([Element(tokens[0], 0, "x")], 1, 1000.0)
    manifest, wanted = place.manifest(0), digest(sweeps.encode(array))
    assert sweeps.read_manifest(manifest, wanted) == array
    manifest.chmod(0o622)
    with pytest.raises(PermissionsError):
        sweeps.read_manifest(manifest, wanted)
    manifest.chmod(0o600)
    manifest.write_bytes(manifest.read_bytes().replace(b'"x"', b'"y"'))
    with pytest.raises(PermissionsError, match="hash"):
        sweeps.read_manifest(manifest, wanted)


def test_sorting_the_results() -> None:
    """By metric, result or argument; what has no number, or NaN, comes last, also when descending."""
    rows = [
        Row(0, "a", "COMPLETED", {"lr": 1}, metrics={"loss": 3.0}, result={"result.acc": 0.5}),
        Row(1, "b", "COMPLETED", {"lr": 2}, metrics={"loss": float("nan")}, result={"result.acc": 0.9}),
        Row(2, "c", "PENDING", {"lr": 3}),
        Row(3, "d", "COMPLETED", {"lr": 4}, metrics={"loss": 1.0, "lr": 9.0}),
    ]
    assert [row.run for row in results.ordered(rows, "loss")] == ["d", "a", "b", "c"]
    assert [row.run for row in results.ordered(rows, "loss", descending=True)] == ["a", "d", "b", "c"]
    assert [row.run for row in results.ordered(rows, "acc", descending=True)] == ["b", "a", "c", "d"]
    assert results.ordered(rows, "lr", descending=True)[0].run == "d"
    assert results.cells(rows[3]) == {"lr": 4, "loss": 1.0, "metric.lr": 9.0}
    assert results.columns(rows) == ["lr", "loss", "result.acc", "metric.lr"]
    with pytest.raises(UsageError, match="accuracy"):
        results.ordered(rows, "accuracy")
    assert results.flat({"a": 1, "b": [1], "c": "x"}) == {"result.a": 1, "result.c": "x"}
    assert results.flat(0.5) == {"result": 0.5}
    assert results.flat(None) == {}
