"""The command line: a lazy click group; every command's module is imported when it is run.

Owns the one place where errors become one line and an exit code. Holds no logic.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from hpcpools import __version__

# name → (module, attribute, help); the help stands here so that `--help` imports no command.
COMMANDS = {
    "init": ("project", "init", "Write a commented hpcpools.toml, filled from the site."),
    "tasks": ("project", "tasks", "List what is declared and which pool serves it."),
    "train": ("train", "train", "Submit a training: a declared function, or a command after --."),
    "sweep": ("sweep", "sweep", "Submit a training once per point of a grid, as one job array."),
    "sweeps": ("sweeps", "sweeps", "List sweeps, or one sweep's results; retry what failed."),
    "reproduce": ("reproduce", "reproduce", "Submit a run once more, from the code it ran."),
    "enqueue": ("short", "enqueue", "Give a declared short task to the workers."),
    "status": ("status", "status", "Both pools on one screen, with the age of every fact."),
    "runs": ("runs", "runs", "List trainings, newest first."),
    "show": ("runs", "show", "Everything known of one run or short job."),
    "explain": ("explain", "explain", "Why a run or short job is in its state, and what to do next."),
    "logs": ("runs", "logs", "Print or follow the log of a run."),
    "wait": ("act", "wait", "Wait for runs or short jobs to end, with a progress bar."),
    "result": ("act", "result", "Print the result of a run or short job as JSON."),
    "cancel": ("act", "cancel", "Cancel runs or short jobs."),
    "pipeline": ("pipeline", "pipeline", "Chains over both pools: run, status, wait, cancel, retry."),
    "queues": ("short", "queues", "Depth and age of every queue."),
    "jobs": ("short", "jobs", "List short jobs, newest first."),
    "up": ("services", "up", "Start the services (or the named ones) and keep them up."),
    "down": ("services", "down", "Stop the services (or the named ones)."),
    "restart": ("services", "restart", "Restart the services (or the named ones)."),
    "ps": ("services", "ps", "List the services."),
    "worker": ("services", "worker", "Run the short pool in the foreground."),
    "scheduler": ("services", "scheduler", "Run the scheduler in the foreground."),
    "redis-acl": ("services", "redis_acl", "Write users and passwords for a Redis shared by login nodes."),
    "checkpoints": ("checkpoints", "checkpoints", "List a run's checkpoints; --verify reads them."),
    "export": ("checkpoints", "export", "Copy a checkpoint out of its run."),
    "cleanup": ("upkeep", "cleanup", "Remove old checkpoints by the retention policy."),
    "pin": ("upkeep", "pin", "Keep a checkpoint from ever being removed."),
    "upkeep": ("upkeep", "upkeep", "Run one upkeep task now, in this process."),
    "nodes": ("nodes", "nodes", "Nodes whose GPU checks failed; report or release one."),
    "completion": ("project", "completion", "Print the shell completion script."),
}

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


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
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if close:
                ctx.fail(f"no command {args[0]!r}; did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table above, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


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
    else:
        text, hint, code = f"{type(error).__name__}: {error}", "this is a bug; --debug shows where", 70
    click.echo(f"hpcpools: {printable(text)}", err=True)
    if hint:
        click.echo(f"  hint: {printable(hint)}", err=True)
    return code


def _leave(code: Any) -> None:
    sys.exit(code)
