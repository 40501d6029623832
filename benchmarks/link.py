"""Let the environment of the competitors see what another one has installed: `python link.py .venv`.

So all systems share one Python, redis-py, RQ and torch, and hpcpools' own environment stays clean.
"""

from __future__ import annotations

import site
import sys
from pathlib import Path

here = Path(site.getsitepackages()[0])
there = Path(sys.argv[1]).resolve() / here.relative_to(sys.prefix)
(here / "linked-environment.pth").write_text(f"import site; site.addsitedir({str(there)!r})\n")
