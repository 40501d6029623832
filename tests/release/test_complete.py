"""`hpcpools completion`: what TAB offers in real shells, where the scripts go, and that TAB costs little."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from hpcpools.cli import COMMANDS, complete, group
from hpcpools.runs.token import new_token


def offered(*words: str) -> list[str]:
    """What is offered for the last word, as click's scripts ask for it."""
    asked = ShellComplete(group, {}, "hpcpools", "_HPCPOOLS_COMPLETE")
    return [item.value for item in asked.get_completions([*words[:-1]], words[-1])]


def printed(*words: str, **env: str) -> str:
    """What hpcpools prints, run in this process."""
    done = CliRunner().invoke(group, list(words), env=env, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a project in the working directory: runs and the rest, and hostile names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere")  # short enough for a socket in it
    (tmp_path / "hpcpools.toml").write_text('[training]\nengine = "local"\n')
    root = tmp_path / "runs"
    for at in (1_000.0, 2_000.0, 3_000.0):
        (root / new_token(at)).mkdir(parents=True)
    hostile = (";reboot", "hp-$(reboot)", "hp-01")
    for name in hostile:
        (root / name).mkdir()
    for folder in (".live", ".sweeps", ".schedule", ".pipelines", ".nodes"):
        (root / folder).mkdir()
    newest = max(tokens(root))
    (root / ".live" / newest).touch()
    (root / ".sweeps" / (newest.replace("hp-", "hs-") + ".json")).touch()
    (root / ".pipelines" / newest.replace("hp-", "hq-")).mkdir()
    (root / ".schedule" / "nightly.json").touch()
    (root / ".schedule" / "$(reboot).json").touch()
    (root / ".nodes" / "gpu-7").mkdir()
    return root


def tokens(root: Path) -> list[str]:
    """The runs, newest first."""
    return sorted((name for name in os.listdir(root) if len(name) == 29), reverse=True)


def test_the_main_arguments_complete(here: Path) -> None:
    """Runs newest first, services, schedules, templates, nodes; nothing hostile, nothing twice."""
    runs = tokens(here)
    newest = runs[0][3:]
    assert offered("checkpoints", "") == runs
    assert offered("show", "h") == [f"hp-{newest}", f"hs-{newest}", f"hq-{newest}", *runs[1:]]
    assert offered("cancel", "hp-") == [runs[0]]  # the others have ended
    assert offered("gc", "") == []
    assert offered("cleanup", runs[0], "hp-") == runs[1:]
    assert offered("sweeps", "") == [f"hs-{newest}"]
    assert offered("pipeline", "cancel", "") == [f"hq-{newest}"]
    assert offered("up", "s") == ["short", "scheduler", "slot"]
    assert offered("logs", "al") == ["all"]
    assert offered("schedule", "pause", "n") == ["nightly"]
    assert offered("schedule", "pause", "$") == []
    assert offered("template", "show", "tr") == ["training"]
    assert offered("nodes", "--release", "") == ["gpu-7"]
    assert offered("help", "tutorial-l") == ["tutorial-laptop", "tutorial-laptop.zh"]
    assert offered("train", "--", "python", "us") == ["us"]  # a file name, by the shell
    assert offered("trian", "zz") == []  # an unknown command is no error yet


def test_a_line_in_the_wrong_place_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, a broken one, and no root yet: silence. --config is heeded."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert offered("show", "") == []
    project = tmp_path / "project"
    project.mkdir()
    file = project / "hpcpools.toml"
    file.write_text('[training]\nengine = "local"\n')
    assert offered("--config", str(file), "up", "sl") == ["slot"]
    monkeypatch.chdir(project)
    assert offered("show", "") == []
    file.write_text("what = {")
    assert offered("show", "") == []


def test_a_huge_root_is_read_in_part(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on what is read, and one on what is shown."""
    monkeypatch.setattr(complete, "SHOWN", 2)
    assert len(offered("show", "hp-")) == 2
    monkeypatch.setattr(complete, "SEEN", 0)
    assert offered("show", "hp-") == []


def test_tab_imports_little(here: Path) -> None:
    """Command names import no command; a run's name neither redis-py nor RQ nor submitit nor rich."""
    code = (
        "import sys; from click.shell_completion import ShellComplete; from hpcpools.cli import group;"
        "print(len(ShellComplete(group, {}, 'hpcpools', 'X').get_completions(%r, '')));"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in %r or"
        " name.startswith('hpcpools.cli.')))"
    )
    heavy = {"redis", "rq", "submitit", "rich", "torch", "croniter"}
    for words, count, loaded in (
        ([], len(COMMANDS), ""),
        (["checkpoints"], 3, "hpcpools.cli.checkpoints hpcpools.cli.complete hpcpools.cli.output"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code % (words, heavy)], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == [str(count), loaded]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install_writes_one_file(shell: str, here: Path) -> None:
    """Where each shell looks, also with XDG folders; --dry-run writes nothing."""
    home = here.parent / "home"
    script = printed("completion", shell)
    for env, place in ({}, PLACES[shell][0]), (XDG, PLACES[shell][1]):
        given = {name: str(home / path) for name, path in env.items()}
        file = home / place
        done = printed("completion", shell, "--install", "--dry-run", **given)
        assert done.startswith(f"would write {file}\n")
        assert not file.exists()
        done = printed("completion", shell, "--install", **given)
        assert done.startswith(f"wrote {file}\n")
        assert (file.read_text(), file.stat().st_mode & 0o777) == (script, 0o644)
        assert shell != "zsh" or f"fpath=({file.parent} $fpath)" in done
    assert len([path for path in home.rglob("*") if path.is_file()]) == 2


XDG = {"XDG_DATA_HOME": "d", "XDG_CONFIG_HOME": "c"}
PLACES = {
    "bash": (".local/share/bash-completion/completions/hpcpools", "d/bash-completion/completions/hpcpools"),
    "zsh": (".local/share/zsh/site-functions/_hpcpools", "d/zsh/site-functions/_hpcpools"),
    "fish": (".config/fish/completions/hpcpools.fish", "c/fish/completions/hpcpools.fish"),
}

# Each sources what --install wrote and prints what TAB would offer after `hpcpools show h`.
ASK = {
    "bash": """
source "$1"; COMP_WORDS=(hpcpools show h); COMP_CWORD=2
_hpcpools_completion hpcpools; printf '%s\\n' "${COMPREPLY[@]}"
complete -p hpcpools >&2
""",
    "zsh": """
autoload -Uz compinit; compinit -u -d "$HOME/dump"
compadd() { print -l $completions }
source "$1"; words=(hpcpools show h); CURRENT=3; _hpcpools_completion
""",
    "fish": """
source $argv[1]; complete -C "hpcpools show h"
""",
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_real_shell_completes(shell: str, here: Path, tmp_path: Path) -> None:
    """The shell itself runs our script, which runs hpcpools."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell}")
    script, ask = tmp_path / f"hpcpools.{shell}", tmp_path / "ask"
    script.write_text(printed("completion", shell))
    ask.write_text(ASK[shell])
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [program, ask, script],
        cwd=here.parent,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    newest = tokens(here)[0][3:]
    assert {f"hp-{newest}", f"hs-{newest}", f"hq-{newest}"} <= set(done.stdout.split()), done
