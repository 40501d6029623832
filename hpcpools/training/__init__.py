"""The training pool: submission through submitit, the on-node entry, and the watch over live runs.

The package bears the name of the public decorator. Importing any module of it binds ``hpcpools.training``
to this package, so the package is callable: ``@hpcpools.training(...)`` means the same at any time.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from hpcpools import declare


class _Decorator(ModuleType):
    """A module that can be called (Python's data model allows to set a module's class)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return declare.training(*args, **kwargs)


sys.modules[__name__].__class__ = _Decorator
