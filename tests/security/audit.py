"""`make audit`: the bill of materials of what hpcpools installs, and what is known against it.

Owns dist/sbom.json (CycloneDX 1.6). The first half needs no network; the second says so when the list of
advisories cannot be reached, which is no failure.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SBOM = ROOT / "dist" / "sbom.json"
NOT_SHIPPED = ("dev", "docs", "demo")  # the extras that only developers install


def declared() -> list[Requirement]:
    """What hpcpools asks for, with every extra that a user may choose."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        name: lines for name, lines in project["optional-dependencies"].items() if name not in NOT_SHIPPED
    }
    return [
        Requirement(line) for line in (*project["dependencies"], *(x for e in extras.values() for x in e))
    ]


def needs(wanted: list[Requirement]) -> dict[str, set[str]]:
    """Project → what it asks for here, for all that is installed because of ``wanted``.

    The tool's own graph has the extras that nobody chose, too: everything leads to pytest.
    """
    found: dict[str, set[str]] = {}
    waiting = [("", wanted)]
    done: set[tuple[str, str]] = set()
    while waiting:
        asking, lines = waiting.pop()
        for line in lines:
            for extra in ("", *line.extras):
                if line.marker is not None and not line.marker.evaluate({"extra": ""}):
                    continue
                name = normal(line.name)
                found.setdefault(asking, set()).add(name)
                if (name, extra) in done:
                    continue
                done.add((name, extra))
                waiting.append((name, asks(name, extra)))
    return found


def asks(name: str, extra: str) -> list[Requirement]:
    """What an installed project asks for with that extra; nothing if it is not installed."""
    try:
        lines = [Requirement(line) for line in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        return []
    chosen = [line for line in lines if line.marker is None or line.marker.evaluate({"extra": extra})]
    for line in chosen:
        line.marker = None
    return chosen


def normal(name: str) -> str:
    """A project's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def without_tools(bom: dict[str, Any], edges: dict[str, set[str]]) -> dict[str, Any]:
    """``bom`` with only what ``edges`` reach."""
    kept = {name for names in edges.values() for name in names}
    parts = [part for part in bom["components"] if normal(part["name"]) in kept]
    refs = {normal(part["name"]): part["bom-ref"] for part in parts}
    refs[""] = bom["metadata"]["component"]["bom-ref"]
    graph = [
        {"ref": ref, "dependsOn": sorted(refs[other] for other in edges.get(name, ()) if other in refs)}
        for name, ref in sorted(refs.items())
    ]
    return {**bom, "components": parts, "dependencies": graph}


def write(path: Path, *, validate: bool = True) -> dict[str, Any]:
    """Make the bill of materials of this environment; what is in it. Validating it takes seconds."""
    words = ["-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    words += ["--output-reproducible", "--spec-version", "1.6", sys.executable]
    words += [] if validate else ["--no-validate"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    bom = without_tools(json.loads(done.stdout), needs(declared()))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(bom, indent=2) + "\n")
    return bom


def advisories(bom: dict[str, Any]) -> dict[str, Any] | None:
    """What pip-audit knows of the parts; None if it could not ask."""
    pins = "".join(f"{part['name']}=={part['version'].partition('+')[0]}\n" for part in bom["components"])
    pinned = SBOM.with_name("pinned.txt")
    pinned.write_text(pins)
    words = [
        "-m",
        "pip_audit",
        "--requirement",
        str(pinned),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
    ]
    words += ["--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return None
    return found


def verdict(report: dict[str, Any] | None) -> tuple[int, str]:
    """Exit code and the line for people."""
    parts = report["dependencies"] if report else []
    asked = [part for part in parts if "skip_reason" not in part]
    if not asked:
        return 0, "audit: NOT DONE: no list of advisories can be reached from here"
    bad = [f"{part['name']} {part['version']}: {each['id']}" for part in asked for each in part["vulns"]]
    text = f"audit: {len(asked)} of {len(parts)} projects looked up, {len(bad)} advisories"
    return int(bool(bad)), "\n  ".join([text, *bad])


def main() -> int:
    """Both halves; 1 if something is known against a part."""
    bom = write(SBOM)
    print(f"sbom: {SBOM.relative_to(ROOT)}, {len(bom['components'])} projects")
    code, text = verdict(advisories(bom))
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
