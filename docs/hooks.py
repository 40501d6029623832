"""Hooks of mkdocs: pages that are made when the site is built, so that none of them can be out of date.

``index``, ``changelog`` and the like are the files at the repository's top; ``reference/`` is written from
click, the schema of the configuration and the public names. The functions that return Markdown are pure; the
tests call them, too.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import hpcpools
from hpcpools import durations, schema
from hpcpools.cli import group
from hpcpools.config import Config

REPOSITORY = Path(__file__).parent.parent
COPIED = {
    "README.md": "index.md",
    "README.zh.md": "index.zh.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    made = {
        "reference/cli.md": cli_reference(),
        "reference/configuration.md": configuration_reference(),
        "reference/python.md": python_reference(),
    }
    made |= {page: moved((REPOSITORY / name).read_text(encoding="utf-8")) for name, page in COPIED.items()}
    for uri, text in made.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pages link to README and CHANGELOG above them, which are pages beside them in the site."""
    for name, page in COPIED.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown


def moved(text: str) -> str:
    """A file of the repository's top as a page: its links lead from docs/."""
    text = text.replace("](docs/", "](")
    for name, page in COPIED.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text


# --- commands


def cli_reference() -> str:
    """Every command with its usage, text and options, from click."""
    parts = [
        "# Every option\n",
        "Written from the program itself; [Commands](../commands.md) explains, with the exit codes.\n",
    ]
    top = click.Context(group, info_name="hpcpools")
    parts += _command(group, top, heading=2)
    for name in group.list_commands(top):
        parts += _commands(group.get_command(top, name), name, top, heading=2)
    return "\n".join(parts)


def _commands(command: click.Command | None, name: str, parent: click.Context, heading: int) -> Iterator[str]:
    if command is None or command.hidden:
        return
    context = click.Context(command, info_name=name, parent=parent)
    yield from _command(command, context, heading)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            yield from _commands(command.get_command(context, each), each, context, heading + 1)


def _command(command: click.Command, context: click.Context, heading: int) -> Iterator[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{'#' * heading} {context.command_path}\n"
    yield f"{_paragraphs(command.help)}\n"
    yield f"```text\n{usage}\n```\n"
    rows = [_option(each, context) for each in command.params if isinstance(each, click.Option)]
    if rows:
        yield "| option | default | meaning |\n| --- | --- | --- |"
        yield "\n".join(rows) + "\n"
    if command.epilog:
        yield "```text\n" + command.epilog.replace("\b", "").strip() + "\n```\n"


def _option(option: click.Option, context: click.Context) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" `{option.make_metavar(context)}`"
    shown = option.default if option.show_default and not option.is_flag else None
    bounds = option.type._describe_range() if isinstance(option.type, click.IntRange) else ""
    text = " ".join(part for part in (_cell(option.help or ""), f"({bounds})" if bounds else "") if part)
    return f"| {flags}{_cell(value)} | {'' if shown is None else f'`{shown}`'} | {_cell(text)} |"


def _paragraphs(text: str | None) -> str:
    """click's docstring as Markdown; ``\\b`` marks what keeps its lines."""
    plain = inspect.cleandoc((text or "").partition("\f")[0])
    return _escaped(plain.replace("\b\n", "").strip())


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", _escaped(text))


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;") if "`" not in text else text


# --- configuration


def configuration_reference() -> str:
    """Every key with its type, default and bounds, from the schema."""
    parts = [
        "# Every key\n",
        "Written from the schema that reads `hpcpools.toml`; [Configuration](../configuration.md) says what "
        'the keys are for. A length of time is a number of seconds, or a text such as `"90s"`, `"12h"`.\n',
    ]
    hints = typing.get_type_hints(Config, include_extras=True)
    for field in msgspec.structs.fields(Config):
        if field.name == "file":
            continue
        parts += _section(field.name, hints[field.name])
    parts.append("## Built-in schedules\n\n| schedule | task | every |\n| --- | --- | --- |")
    parts += [
        f"| `{name}` | `{entry.task}` | `{_toml(entry.every)}` |"
        for name, entry in schema.DEFAULT_SCHEDULE.items()
    ]
    return "\n".join(parts) + "\n"


def _section(name: str, kind: Any) -> Iterator[str]:
    plain, _ = _unwrapped(kind)
    if typing.get_origin(plain) is dict:
        key, value = typing.get_args(plain)
        if not _is_section(value):
            yield f"## [{name}]\n\nAny number of lines; key: {_type(key)}; value: {_type(value)}.\n"
            return
        name, plain = f"{name}.NAME", value
    yield f"## [{name}]\n\n{_first(plain)}\n\n| key | type | default |\n| --- | --- | --- |"
    hints = typing.get_type_hints(plain, include_extras=True)
    nested = []
    for field in msgspec.structs.fields(plain):
        kind = hints[field.name]
        values = typing.get_args(kind)
        if typing.get_origin(kind) is dict and _is_section(values[1]):
            nested.append((f"{name}.{field.name}", kind))
            continue
        yield f"| `{field.name}` | {_cell(_type(kind))} | {_default(field)} |"
    yield ""
    for each in nested:
        yield from _section(*each)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _first(section: type) -> str:
    return re.sub(r"``", "`", (section.__doc__ or "").strip().partition("\n\n")[0])


def _unwrapped(kind: Any) -> tuple[Any, str]:
    """A type without its bounds, and the bounds in words."""
    if typing.get_origin(kind) is not typing.Annotated:
        return kind, ""
    plain, meta, *_ = typing.get_args(kind)
    signs = ((">", meta.gt), ("≥", meta.ge), ("<", meta.lt), ("≤", meta.le))
    bounds = [f"{sign} {value}" for sign, value in signs if value is not None]
    return plain, ", ".join([*bounds, *_pattern(meta)])


def _pattern(meta: msgspec.Meta) -> Iterator[str]:
    if meta.max_length:
        yield f"{meta.max_length} characters at most"
    if meta.pattern:
        yield f"matches `{meta.pattern}`"


def _type(kind: Any) -> str:
    """A type in the words of TOML."""
    plain, bounds = _unwrapped(kind)
    origin, values = typing.get_origin(plain), typing.get_args(plain)
    if origin is typing.Literal:
        text = " or ".join(f"`{value}`" for value in values)
    elif origin is tuple:
        text = f"list of {_type(values[0])}"
    elif origin is dict:
        text = f"table of {_type(values[1])}"
    elif type(None) in values:
        text = _type(next(value for value in values if value is not type(None))) + ", may be left out"
    else:
        text = {str: "text", bool: "true or false", int: "whole number", float: "number"}.get(plain) or (
            "length of time" if plain is schema.Seconds else plain.__name__
        )
    return f"{text}; {bounds}" if bounds else text


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None:
        return ""
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, schema.Seconds):
        short = durations.age(value)
        return f'"{short}"' if durations.seconds(short) == value else f"{value:g}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


# --- Python


def python_reference() -> str:
    """The public names, each where it is defined; mkdocstrings reads the docstrings."""
    parts = ["# Python\n", "All of it is imported from `hpcpools`: `from hpcpools import task, training`.\n"]
    parts += [f"::: {hpcpools._HOMES[name]}.{name}\n" for name in hpcpools.__all__]
    return "\n".join(parts)
