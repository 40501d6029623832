"""What a person does: log in, filter, sort, page on, follow a log, cancel, requeue."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect

from hpcpools.errors import NotFoundError
from hpcpools.redisdb.connect import connect
from hpcpools.runs.directory import RunDirectory
from hpcpools.short import control, views
from hpcpools.short.enqueue import fetch
from tests.dashboard.conftest import Site, Watched
from tests.dashboard.scene import PLANTED
from tests.dashboard.test_pages import walk

LONG = """
name = "long"
[stages.only]
task = "eviltasks:sleeper"
arguments = { until = "/nowhere" }
"""
INKED = """(canvas) => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
  .data.filter((value, place) => place % 4 === 3 && value).length"""  # pixels that are not clear


def test_log_in_and_out(site: Site, browser: Browser) -> None:
    """A wrong token is told; the right one leads to the page that was asked for; out is out."""
    context = browser.new_context(base_url=site.url)
    page = context.new_page()
    page.goto("/nodes")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("This is not the token of this dashboard.")
    page.get_by_label("Token").fill(site.token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Nodes")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    page.goto("/runs")
    expect(page.get_by_label("Token")).to_be_visible()
    context.close()


def test_filter_sort_and_page_on(tab: Watched) -> None:
    """Over all runs, by the server."""
    page = tab.page
    page.goto("/runs")
    page.get_by_label("Search").fill("ablation")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text(f"1\u201350 of {PLANTED}")).to_be_visible()
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_text(f"51\u2013100 of {PLANTED}")).to_be_visible()
    page.get_by_role("link", name="What").click()
    page.wait_for_url("**sort=what*")
    expect(page.locator("tbody tr").first).to_contain_text("ablation-129")
    page.get_by_role("link", name="What").click()
    expect(page.locator("tbody tr").first).to_contain_text("ablation-000")
    page.get_by_label("State").select_option("TIMEOUT")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**state=TIMEOUT*")
    assert set(page.locator("tbody .state").all_inner_texts()) == {"TIMEOUT"}
    page.get_by_label("Search").fill("no such run")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("No run fits.")).to_be_visible()


def test_the_curves_are_drawn(site: Site, tab: Watched) -> None:
    """Loss and utilisation, from what was logged and measured."""
    tab.page.goto(f"/runs/{site.scene.gpu_run}")
    expect(tab.page.locator(".chart canvas")).to_have_count(2)
    for chart in tab.page.locator(".chart canvas").all():
        assert chart.evaluate(INKED) > 2000
    assert tab.page.locator(".u-label").all_inner_texts()[1:3] == ["loss", "val_loss"]
    assert "preemption 1 of 50" in tab.page.locator(".facts").first.inner_text()


def test_the_log_grows_while_it_is_looked_at(site: Site, tab: Watched) -> None:
    """New lines come without a reload, and the page says how old its facts are."""
    scene = site.scene
    tab.page.goto(f"/runs/{scene.holding}")
    log = tab.page.locator(".logview pre")
    expect(log).to_contain_text("holding")
    [attempt] = [*RunDirectory(scene.config.root, scene.holding).attempts.iterdir()]
    with (attempt / "log.out").open("a") as file:
        file.write("one more line\n")
    expect(log).to_contain_text("one more line")
    assert log.inner_text().count("holding") == 1
    expect(tab.page.locator(".head time").first).to_have_text(re.compile(r"\d+[smh] ago"))


def test_cancel_and_requeue_a_run(site: Site, tab: Watched) -> None:
    """Each asks first; afterwards the run's own files say so."""
    scene, page = site.scene, tab.page
    page.goto(f"/runs/{scene.waiting}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Its end was asked for.")).to_be_visible()
    expect(page.locator(".head .state").first).to_have_text("CANCELLED")
    assert scene.project.state(scene.waiting) == "CANCELLED"
    expect(page.get_by_role("button", name="Requeue")).to_have_count(0)
    page.goto(f"/runs/{scene.failed}")
    page.get_by_role("button", name="Requeue").click()
    expect(page.get_by_text("It was submitted again.")).to_be_visible()
    assert scene.project.state(scene.failed) == "PENDING"
    assert tab.confirmed == ["Cancel this run?", "Submit this run again?"]
    page.goto("/runs")
    expect(page.locator("tbody tr", has_text="cheese").locator(".state")).to_have_text("PENDING")


def test_a_sweep_is_tried_again_and_cancelled_as_a_whole(site: Site, tab: Watched) -> None:
    """Only what failed is submitted again; all that waits is cancelled; then there is nothing to do."""
    scene, page = site.scene, tab.page
    page.goto(f"/sweeps/{scene.half_failed}")
    assert "Retry what failed" in walk(tab, 25)
    page.get_by_role("button", name="Retry what failed").click()
    expect(page.get_by_text("What failed is tried again.")).to_be_visible()
    rows = {row["run"]: row["state"] for row in scene.project.json("sweeps", scene.half_failed)["elements"]}
    assert sorted(rows.values()) == ["COMPLETED", "PENDING"]
    page.get_by_role("button", name="Cancel all").click()
    expect(page.get_by_text("Its end was asked for.")).to_be_visible()
    assert sorted(map(scene.project.state, rows)) == ["CANCELLED", "COMPLETED"]
    expect(page.get_by_role("button", name="Cancel all")).to_have_count(0)
    assert tab.confirmed == [
        "Submit all failed runs of this sweep again?",
        "Cancel all runs of this sweep?",
    ]
    page.goto(f"/sweeps/{scene.sweep}")
    expect(page.locator("main button")).to_have_count(0)


def test_a_schedule_is_paused_resumed_and_fired(site: Site, tab: Watched) -> None:
    """The row says so, the command line too; a firing is a job of its own."""
    scene, page = site.scene, tab.page

    def state() -> str:
        found = scene.project.json("schedule")["schedules"]
        return next(str(row["state"]) for row in found if row["name"] == "cleanup_old_checkpoints")

    page.goto("/schedule")
    page.get_by_role("button", name="Pause cleanup_old_checkpoints").click()
    expect(page.get_by_text("Paused: it fires nothing")).to_be_visible()
    assert state() == "paused"
    page.get_by_role("button", name="Resume cleanup_old_checkpoints").press("Enter")
    expect(page.get_by_text("Resumed: it fires again")).to_be_visible()
    assert state() == "on"
    page.get_by_role("button", name="Run now cleanup_old_checkpoints").click()
    expect(page.get_by_text("Its task was enqueued.")).to_be_visible()
    assert any(job.id.startswith("cleanup_old_checkpoints-now-") for job in views.jobs(scene.config))
    assert len(tab.confirmed) == 3
    control.suspend(scene.config)  # so that the next firing waits, and one more is refused
    for said in ("Its task was enqueued.", "of this schedule waits already"):
        page.goto("/schedule")
        page.get_by_role("button", name="Run now cleanup_old_checkpoints").click()
        expect(page.get_by_text(said)).to_be_visible()
    control.resume(scene.config)
    assert "409" in tab.wrong.pop()


def test_cancel_and_requeue_a_short_job(site: Site, tab: Watched) -> None:
    """A running job is killed; a failed one goes back and fails again; what was tampered with stays out."""
    scene, page = site.scene, tab.page
    page.goto(f"/rq/0/view/job/{scene.stuck_job}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("[data-state]")).to_have_text(re.compile("stopped|canceled"), timeout=20000)
    assert fetch(scene.config, scene.stuck_job).state in ("stopped", "canceled")
    [broken] = [job for job in views.jobs(scene.config, state="failed") if "broken" in job.call]
    before = views.show(scene.config, broken.id).job.ended
    page.goto(f"/rq/0/view/job/{broken.id}")
    page.get_by_role("button", name="Requeue").click()

    def failed_again() -> bool:
        job = views.show(scene.config, broken.id).job
        return job.state == "failed" and job.ended != before

    scene.project.until(failed_again, "the job is tried once more")
    page.goto(f"/rq/0/view/job/{scene.evil_job}")
    tab.wrong.clear()
    page.get_by_role("button", name="Requeue").click()
    expect(page.get_by_role("alert")).to_contain_text("signature")
    assert "409" in tab.wrong.pop()  # the browser notes the refusal, nothing else


def test_what_is_done_to_many_jobs(site: Site, tab: Watched) -> None:
    """Requeue all leaves out what is refused; delete all and delete ask first; stale entries go."""
    scene, page = site.scene, tab.page
    scene.project.cli("enqueue", "usertasks:evaluate", "--queue", "preprocessing", "--wait")
    page.goto("/rq/0/view/jobs/preprocessing/finished/25/dsc/1")
    expect(page.locator(".rq tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Delete all").click()
    expect(page.get_by_text("No finished jobs in this queue.")).to_be_visible()
    [broken] = [job for job in views.jobs(scene.config, state="failed") if "broken" in job.call]
    page.goto("/rq/0/view/jobs/default/failed/25/dsc/1")
    page.get_by_role("button", name="Requeue all").click()
    scene.project.until(
        lambda: views.show(scene.config, broken.id).job.ended != broken.ended, "the job is tried once more"
    )
    assert views.show(scene.config, scene.evil_job).job.state == "failed"
    control.suspend(scene.config)  # or a worker drops it
    with connect(scene.config) as redis:
        redis.rpush("rq:queue:preprocessing", "no-such-job")
        page.goto("/rq/0/view/jobs/preprocessing/queued/25/asc/1")
        page.get_by_role("button", name="Drop stale entries").click()
        scene.project.until(lambda: not redis.llen("rq:queue:preprocessing"), "the entry is gone")
    control.resume(scene.config)
    job = fetch(scene.config, scene.project.cli("enqueue", "usertasks:evaluate").stdout.strip())
    job.wait(30)
    page.goto(f"/rq/0/view/job/{job.id}")
    page.get_by_role("button", name="Delete").click()
    page.wait_for_url("**/rq/")
    assert len(tab.confirmed) == 3
    with pytest.raises(NotFoundError):
        job.refresh()


def test_a_pipeline_is_tried_again_and_cancelled(site: Site, tab: Watched) -> None:
    """The failed stage and what waited for it begin anew; one that runs is ended, its short job too."""
    scene, page = site.scene, tab.page
    page.goto(f"/pipelines/{scene.pipeline}")
    page.get_by_role("button", name="Retry what failed").click()
    expect(page.get_by_text("What failed is tried again.")).to_be_visible()
    tries = page.locator("tbody tr").evaluate_all(
        "rows => rows.map(r => [r.cells[0].innerText, r.cells[4].innerText])"
    )
    assert dict(tries) == {"data": "1", "fit": "1", "check": "1", "compare": "2", "report": "2"}
    assert tab.confirmed == ["Try again: compare, report?"]
    (scene.project.folder / "long.toml").write_text(LONG)
    running = scene.project.cli("pipeline", "run", "long.toml").stdout.strip()
    page.goto(f"/pipelines/{running}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Its end was asked for.").first).to_be_visible()
    assert "CANCELLED" in scene.project.cli("pipeline", "wait", running, check=False).stdout
    page.reload()
    expect(page.locator(".head .state")).to_have_text("CANCELLED")
