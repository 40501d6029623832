"""One project, one dashboard and one real browser for all tests here."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, sync_playwright

from tests.conftest import state_home
from tests.dashboard import scene
from tests.dashboard.scene import Scene
from tests.project import Project

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
PROGRAMS = ("bash", "sh", "env", "cat", "sleep", "true", "false", "redis-server", "git")


@contextlib.contextmanager
def laptop_project(folder: Path) -> Iterator[Project]:
    """As the fixture ``laptop``, for more than one test."""
    programs = folder / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    with state_home() as state:
        project = Project(folder / "project", {"PATH": str(programs), "XDG_STATE_HOME": state})
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_STATE_HOME", state)
            patch.setenv("PATH", str(programs))
            try:
                yield project
            finally:
                (project.folder / scene.RELEASE).touch()
                scene.forget(project.root)
                project.close()


@contextlib.contextmanager
def serving(project: Project, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hpcpools dashboard` as a process, and what it printed up to its start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hpcpools", "dashboard", *words],
        cwd=project.folder,
        env=project.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if "dashboard-start" in line:
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, said
    finally:
        process.terminate()
        process.wait(15)


@dataclass
class Site:
    """The scene, and where its dashboard listens."""

    scene: Scene
    url: str
    token: str


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The project with something on every page, and its dashboard, which may change things."""
    with laptop_project(tmp_path_factory.mktemp("dash")) as project:
        made = scene.make(project)
        with serving(project, "--listen", "127.0.0.1:0", "--allow-changes") as (_, said):
            url = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert url is not None, said
            yield Site(made, url.group(), project.cli("dashboard", "--print-token").stdout.strip())


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium without a screen."""
    if not Path(CHROMIUM).exists() and "HPCPOOLS_REQUIRE_LAB" not in os.environ:
        pytest.skip("no chromium here; tests/cluster/install.sh installs it")
    with tempfile.TemporaryDirectory(), sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@dataclass
class Watched:
    """A tab, and all that went wrong in it: dialogs of pages, errors, refusals of the content policy."""

    page: Page
    wrong: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("dialog", self._dialog)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(f"{message.text} {message.location['url']}")

    def _dialog(self, dialog: Dialog) -> None:
        if dialog.type == "confirm":
            self.confirmed.append(dialog.message)
            dialog.accept()
        else:
            self.wrong.append(f"{dialog.type}: {dialog.message}")
            dialog.dismiss()


@pytest.fixture(scope="package")
def login(site: Site, browser: Browser) -> BrowserContext:
    """A window that has logged in once."""
    context = browser.new_context(base_url=site.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20000)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("Token").fill(site.token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/")
    page.close()
    return context


@pytest.fixture
def tab(login: BrowserContext) -> Iterator[Watched]:
    """A new tab, logged in; nothing may go wrong in it."""
    watched = Watched(login.new_page())
    yield watched
    watched.page.close()
    assert watched.wrong == []
