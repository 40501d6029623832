"""The command line: a lazy click group; every command's module is imported when it is run.

Owns the one place where errors become one line and an exit code. Holds no logic.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from hpcpools import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# In the order of `--help`, which reads it here and imports no command: name → (module, attribute, help).
COMMANDS = {
    "init": ("project", "init", "Write a commented hpcpools.toml, filled from the site."),
    "tasks": ("project", "tasks", "List what is declared and which pool serves it."),
    "help": ("help", "help_", "Read about a topic, or see the options of a command."),
    "completion": ("complete", "completion", "Print the shell completion script, or install it."),
    "train": ("train", "train", "Submit a training: a declared function, or a command after --."),
    "template": ("template", "template", "Plain sbatch scripts: list, show, render, submit."),
    "sweep": ("sweep", "sweep", "Submit a training or a command once per point of a grid, as one job array."),
    "sweeps": ("sweeps", "sweeps", "List sweeps, or one sweep's results; retry what failed."),
    "reproduce": ("reproduce", "reproduce", "Submit a run once more, from the code it ran."),
    "runs": ("runs", "runs", "List trainings, newest first."),
    "plot": ("report", "plot", "Loss and GPU curves of a run: terminal, PNG or SVG."),
    "checkpoints": ("checkpoints", "checkpoints", "List a run's checkpoints; --verify reads them."),
    "export": ("checkpoints", "export", "Copy a checkpoint out of its run."),
    "pin": ("upkeep", "pin", "Keep a checkpoint from ever being removed."),
    "cleanup": ("upkeep", "cleanup", "Remove old checkpoints by the retention policy."),
    "enqueue": ("short", "enqueue", "Give a declared short task to the workers."),
    "jobs": ("short", "jobs", "List short jobs, newest first."),
    "queues": ("short", "queues", "Depth and age of every queue."),
    "requeue": ("pool", "requeue", "Put failed short jobs back into their queues."),
    "suspend": ("pool", "suspend", "Let no worker take another short job."),
    "resume": ("pool", "resume", "Let the workers take short jobs again."),
    "schedule": ("schedule", "schedule", "What fires when: list, add, pause, resume, run-now, remove."),
    "status": ("status", "status", "Both pools on one screen, with the age of every fact."),
    "top": ("top", "top", "Both pools live in the terminal, with keys to cancel and retry."),
    "show": ("runs", "show", "Everything known of a run, sweep, pipeline or short job."),
    "explain": ("explain", "explain", "Why a run or short job is in its state, and what to do next."),
    "logs": ("logs", "logs", "Print or follow the log of a run, a service or a short job."),
    "wait": ("act", "wait", "Wait for runs, sweeps, pipelines or short jobs, with a progress bar."),
    "result": ("act", "result", "Print the result of a run, sweep, pipeline or short job."),
    "cancel": ("act", "cancel", "Cancel runs, sweeps, pipelines or short jobs."),
    "pipeline": ("pipeline", "pipeline", "Chains over both pools: run, status, wait, cancel, retry."),
    "failures": ("failures", "failures", "What failed in both pools, grouped by what went wrong."),
    "retry": ("failures", "retry", "Try failed runs and short jobs again, singly or a whole group."),
    "report": ("report", "report", "What happened in both pools: one HTML file, and CSV."),
    "up": ("services", "up", "Start the services (or the named ones) and keep them up."),
    "down": ("services", "down", "Stop the services (or the named ones)."),
    "restart": ("services", "restart", "Restart the services (or the named ones)."),
    "ps": ("services", "ps", "List the services."),
    "worker": ("services", "worker", "Run the short pool in the foreground."),
    "scheduler": ("services", "scheduler", "Run the scheduler in the foreground."),
    "dashboard": ("dashboard", "dashboard", "Web pages of both pools, over ssh or a loopback port."),
    "exporter": ("exporter", "exporter", "Metrics for Prometheus: unix socket, loopback port, or a file."),
    "deploy": ("deploy", "deploy", "Keep the services up: systemd, cron, scrontab, supervisord."),
    "redis-acl": ("services", "redis_acl", "Write users and passwords for a Redis shared by login nodes."),
    "doctor": ("doctor", "doctor", "Check everything that must hold, each finding with its fix."),
    "usage": ("usage", "usage", "GPU-hours held and used, by user, run, partition or label."),
    "nodes": ("nodes", "nodes", "Nodes whose GPU checks failed; report or release one."),
    "upkeep": ("upkeep", "upkeep", "Run one upkeep task now, in this process."),
    "reconcile": ("reconcile", "reconcile", "Put back what Redis lost and the files know."),
    "gc": ("gc", "gc", "Remove runs, sweeps and pipelines that ended long ago, and unused code."),
}

# The sections of `--help`: each begins with this command and goes on to the next one's.
SECTIONS = {
    "init": "Project",
    "train": "Training",
    "enqueue": "Short tasks",
    "status": "Both pools",
    "up": "Services",
    "doctor": "Site",
}


def _width() -> int:
    """Columns for help texts, as click counts them, but without importing shutil: a tenth of `--help`."""
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError, AttributeError):  # no terminal
        columns = 80
    return max(min(columns, 100) - 2, 50)


CONTEXT = {"help_option_names": ["-h", "--help"], "terminal_width": _width()}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"hpcpools.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Like click's, with the nearest name on a slip of the finger."""
        unknown = args and args[0] not in COMMANDS and not args[0].startswith("-")
        if unknown and not ctx.resilient_parsing:  # a line that is being completed may hold anything
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if close:
                ctx.fail(f"no command {args[0]!r}; did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table above, without importing anything."""
        width = max(map(len, COMMANDS))
        rows: dict[str, list[tuple[str, str]]] = {}
        section = ""
        for name, (_, _, text) in COMMANDS.items():
            section = SECTIONS.get(name, section)
            rows.setdefault(section, []).append((name.ljust(width), text))
        for section, commands in rows.items():
            with formatter.section(section):
                formatter.write_dl(commands)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table, too: click would import every command for its help."""
        from click.shell_completion import CompletionItem

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        return [
            *(CompletionItem(name, help=COMMANDS[name][2]) for name in names),
            *click.Command.shell_complete(self, ctx, incomplete),
        ]


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.option("--config", "config_file", metavar="FILE", help="The hpcpools.toml to use.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="hpcpools")
@click.pass_context
def group(ctx: click.Context, config_file: str | None, debug: bool) -> None:
    """Two pools behind one command line: training on Slurm, short tasks on workers."""
    ctx.obj = {"config_file": config_file, "debug": debug}


def main(args: list[str] | None = None) -> None:
    """The console script. One clear line on an error, a traceback only with ``--debug``."""
    try:
        code = group.main(args=args, prog_name="hpcpools", standalone_mode=False)
        _leave(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("hpcpools: interrupted", err=True)
        _leave(130)
    except click.ClickException as error:
        error.show()
        _leave(error.exit_code)
    except BrokenPipeError:  # `hpcpools runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(141)
    except Exception as error:
        _leave(_report(error))


def _report(error: Exception) -> int:
    from hpcpools.errors import HpcpoolsError
    from hpcpools.textsafe import printable

    if "--debug" in sys.argv:
        import traceback

        traceback.print_exc()
    if isinstance(error, HpcpoolsError):
        text, hint, code = error.message, error.hint, error.exit_code
    elif isinstance(error, PermissionError):  # a folder of another user, whoever met it first
        text, hint, code = f"{error.filename}: {error.strerror}", "", 77
    else:
        text, hint, code = f"{type(error).__name__}: {error}", "this is a bug; --debug shows where", 70
    click.echo(f"hpcpools: {printable(text)}", err=True)
    if hint:
        click.echo(f"  hint: {printable(hint)}", err=True)
    return code


def _leave(code: Any) -> None:
    sys.exit(code)
