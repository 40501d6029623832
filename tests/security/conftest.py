"""The second uid, and the fixtures of the parts that the threats are about."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.security.inside import inside
from tests.security.other import Other, unused
from tests.services.conftest import config, crew
from tests.short.conftest import lab

__all__ = ["config", "crew", "inside", "lab", "other"]


@pytest.fixture(scope="session")
def other() -> Other:
    """B, another uid of this machine."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("another uid needs root and setpriv")
    return unused()
