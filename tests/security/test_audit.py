"""The bill of materials names what we ship and no tool of ours; an audit that was not made says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security import audit


def test_the_bill_of_materials(tmp_path: Path) -> None:
    """Everything that hpcpools asks for, and what that asks for in turn, with versions."""
    pytest.importorskip("cyclonedx_py")
    bom = audit.write(tmp_path / "sbom.json", validate=False)
    assert (tmp_path / "sbom.json").read_text().startswith("{")
    assert (bom["bomFormat"], bom["metadata"]["component"]["name"]) == ("CycloneDX", "hpcpools")
    names = {audit.normal(part["name"]): part["version"] for part in bom["components"]}
    assert {"rq", "redis", "hiredis", "submitit", "cloudpickle", "click", "msgspec", "rich"} <= set(names)
    assert not {"pytest", "mypy", "ruff", "cyclonedx-bom", "mkdocs"} & set(names)
    assert all(part["purl"].startswith("pkg:pypi/") for part in bom["components"])


def test_the_verdict() -> None:
    """Nothing asked is not "nothing found"."""
    unknown = {"name": "a", "skip_reason": "not found on PyPI"}
    good = {"name": "b", "version": "1", "vulns": []}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1"}]}
    assert audit.verdict(None) == audit.verdict({"dependencies": [unknown]})
    assert "NOT DONE" in audit.verdict(None)[1]
    assert audit.verdict({"dependencies": [unknown, good]}) == (
        0,
        "audit: 1 of 2 projects looked up, 0 advisories",
    )
    code, text = audit.verdict({"dependencies": [good, bad]})
    assert code == 1
    assert text.endswith("c 2: CVE-1")
