"""The screenshots of docs/dashboard.md, and of a report: ``python -m tests.dashboard.pictures FOLDER``."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.dashboard import scene
from tests.dashboard.conftest import CHROMIUM, FLAGS, Site, laptop_project, serving
from tests.dashboard.test_pages import pages
from tests.project import Project

WIDE, PHONE = (1280, 860), (390, 844)
# name → page, window, colour scheme
PICTURES = {
    "overview": ("overview", (1280, 940), "light"),
    "overview-dark": ("overview", WIDE, "dark"),
    "overview-phone": ("overview", PHONE, "light"),
    "runs": ("runs", WIDE, "light"),
    "run": ("run", (1280, 940), "light"),
    "run-dark": ("run", WIDE, "dark"),
    "run-phone": ("run", PHONE, "light"),
    "sweep": ("sweep", (1280, 480), "light"),
    "pipeline": ("pipeline", (1280, 560), "light"),
    "schedule": ("schedule", (1280, 480), "light"),
    "nodes": ("nodes", (1280, 640), "light"),
    "queues": ("queues", (1280, 480), "light"),
    "jobs": ("jobs", (1280, 560), "light"),
    "job": ("job", (1280, 760), "light"),
    "workers": ("workers", (1280, 480), "light"),
}


def main(folder: Path) -> None:
    """All of them, from a project made for it."""
    with tempfile.TemporaryDirectory() as place, laptop_project(Path(place)) as project:
        made = scene.make(project, "CUDA error: an illegal memory access was encountered")
        with serving(project, "--listen", "127.0.0.1:0", "--allow-changes") as (_, said):
            found = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert found is not None
            site = Site(made, found.group(), project.cli("dashboard", "--print-token").stdout.strip())
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
                for name in PICTURES:
                    take(browser, site, name, folder / f"dashboard-{name}.png")
                report(browser, project, folder / "report.png")


def take(browser: Browser, site: Site, name: str, file: Path) -> None:
    """One picture, in a window of its own."""
    page_name, (width, height), scheme = PICTURES[name]
    context = browser.new_context(
        base_url=site.url,
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(pages(site)[page_name])
    page.get_by_label("Token").fill(site.token)
    page.get_by_role("button", name="Log in").click()
    settle(page)
    page.screenshot(path=file)
    context.close()


def report(browser: Browser, project: Project, file: Path) -> None:
    """The head of what `hpcpools report` makes of the same project."""
    project.cli("report", "--since", "4h", "--out", "report.html")
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto((project.folder / "report.html").as_uri())
    page.screenshot(path=file)
    page.close()


def settle(page: Page) -> None:
    """Wait for what comes after the page."""
    page.locator("h1").wait_for()
    page.wait_for_load_state("networkidle")
    if page.locator(".rq").count():
        page.wait_for_selector(".rq > *")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
