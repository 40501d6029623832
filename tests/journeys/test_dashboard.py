"""The dashboard over a real Slurm: what its pages say of a run there, and its two buttons."""

from __future__ import annotations

import re

import pytest

from hpcpools import config
from tests.project import Project

HEADERS = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}


@pytest.mark.slurm
def test_a_run_on_slurm_in_the_dashboard(site: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It appears with node and job and the age of Slurm's answer; cancelled; another one submitted again."""
    service = pytest.importorskip("hpcpools.dashboard.service")
    for name in ("PATH", "SLURM_CONF", "XDG_STATE_HOME"):
        if name in site.env:
            monkeypatch.setenv(name, site.env[name])
    app = service.application(config.load(site.folder / "hpcpools.toml"), allow_changes=True)
    failed = site.train("usertasks:fail")
    held = site.train("usertasks:hold", f"until={site.folder / 'release'}")
    site.until_state(failed, "FAILED")
    with app.test_client() as client:
        client.post(
            "/login",
            data={"token": service.token(config.load(site.folder / "hpcpools.toml"))},
            headers=HEADERS,
        )

        def page(path: str) -> str:
            return str(client.get(path, headers=HEADERS).get_data(as_text=True))

        site.until(lambda: "RUNNING" in page(f"/runs/{held}"), "it runs")
        job = site.json("show", held)["job_id"]
        site.until(lambda: job in page("/runs"), "the list has its job")
        assert "Slurm, as of" in re.sub(r"\s+", " ", page("/"))
        found = re.search(r'name="csrf" content="([^"]+)"', page("/"))
        assert found is not None
        form = {"csrf": found.group(1)}
        assert client.post(f"/runs/{held}/cancel", data=form, headers=HEADERS).status_code == 303
        site.until_state(held, "CANCELLED")
        assert client.post(f"/runs/{held}/requeue", data=form, headers=HEADERS).status_code == 409
        assert client.post(f"/runs/{failed}/requeue", data=form, headers=HEADERS).status_code == 303
        site.until(lambda: site.json("show", failed)["attempts"][1:], "a second attempt")
        site.until_state(failed, "FAILED")
