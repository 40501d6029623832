"""What the services say on stderr: one line per event, ``action=... key=value``, safe for any terminal.

Owns the format. Refuses raw text: whatever a job or a user wrote is escaped and cut.
"""

from __future__ import annotations

import logging
import re

from hpcpools.textsafe import one_line

log = logging.getLogger("hpcpools")
_PLAIN = re.compile(r"[\w.:/@+-]+", re.ASCII)


def event(action: str, /, **facts: object) -> str:
    """``event("start", workers=4)`` → ``action=start workers=4``; None is left out, other text is quoted."""
    words = [f"action={action}"]
    for name, fact in facts.items():
        text = one_line(f"{fact:.3f}" if isinstance(fact, float) else str(fact), 300)
        if fact is not None:
            words.append(
                f"{name}={text}" if _PLAIN.fullmatch(text) else f'{name}="{text.replace(chr(34), chr(39))}"'
            )
    return " ".join(words)


def to_stderr() -> None:
    """Show our events from INFO and rq's own messages from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s pid=%(process)d %(message)s"))
    for name, level in (("hpcpools", logging.INFO), ("rq", logging.WARNING), ("rq.worker", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    for name in ("hpcpools", "rq"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record), 2000)
