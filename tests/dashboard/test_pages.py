"""Every page in a real browser: complete, quiet, on a small screen, in the dark, by keyboard alone."""

from __future__ import annotations

from tests.dashboard.conftest import Site, Watched


def pages(site: Site) -> dict[str, str]:
    """Every page by a name."""
    scene = site.scene
    return {
        "overview": "/",
        "runs": "/runs",
        "run": f"/runs/{scene.gpu_run}",
        "run-failed": f"/runs/{scene.failed}",
        "sweeps": "/sweeps",
        "sweep": f"/sweeps/{scene.sweep}",
        "pipelines": "/pipelines",
        "pipeline": f"/pipelines/{scene.pipeline}",
        "schedule": "/schedule",
        "nodes": "/nodes",
        "queues": "/rq/",
        "jobs": "/rq/0/view/jobs/default/failed/25/dsc/1",
        "job": f"/rq/0/view/job/{scene.evil_job}",
        "workers": "/rq/0/view/workers",
    }


def test_every_page_is_complete_and_quiet(site: Site, tab: Watched) -> None:
    """Each has a heading and its content, and the browser has nothing to complain about."""
    for path in pages(site).values():
        answer = tab.page.goto(path)
        assert answer is not None and answer.status == 200, path
        assert tab.page.locator("h1").count() == 1, path
        assert tab.page.locator("nav a[aria-current]").count() == 1, path
        if "/rq/" in path:
            tab.page.wait_for_selector(".rq > *")
    assert tab.wrong == []


def test_the_overview_at_a_glance(tab: Watched) -> None:
    """Numbers of both pools, runs by state with links to them, the nodes in use with their utilisation."""
    tab.page.goto("/")
    tiles = dict(line.split("\n") for line in tab.page.locator(".tiles li").all_inner_texts())
    assert tiles
    nodes = tab.page.locator(".nodes").inner_text()
    assert all(fact in nodes for fact in ("gpu-004", "96 %", "gpu-005", "71 %", "4 GPUs"))
    tab.page.locator(".counts a", has_text="TIMEOUT").click()
    tab.page.wait_for_url("**/runs?state=TIMEOUT")


def test_nothing_that_a_job_says_becomes_markup(site: Site, tab: Watched) -> None:
    """Names, reasons, tracebacks, logs, node findings: shown as they are written, and nothing of it runs."""
    scene = site.scene
    shown = {
        "/runs?q=onerror": "td",
        f"/runs/{scene.evil_run}": "h1",
        "/nodes": "td",
        "/rq/0/view/jobs/default/failed/25/dsc/1": ".rq td",
        f"/rq/0/view/job/{scene.evil_job}": ".rq pre",
        "/": "td",
    }
    for path, where in shown.items():
        tab.page.goto(path)
        tab.page.locator(where, has_text="<img src=x onerror=").first.wait_for()
        tab.page.wait_for_load_state("networkidle")
        assert tab.page.locator("img:not([src='/static/icon.svg'])").count() == 0, path
        assert tab.page.locator("script:not([src^='/static/'])").count() == 0, path
        assert "}49" not in tab.page.locator(where, has_text="onerror").first.inner_text()
    tab.page.goto(f"/runs/{scene.evil_run}")
    log = tab.page.locator(".logview pre")
    tab.page.get_by_label("Stream").select_option("out")
    log.get_by_text("before <img").wait_for()
    assert "\\x1b[2J" in log.inner_text() and "\\u202e" in log.inner_text()


def test_a_phone_shows_all_without_scrolling_sideways(site: Site, tab: Watched) -> None:
    """On 390 pixels only a wide table scrolls, within its own frame."""
    tab.page.set_viewport_size({"width": 390, "height": 844})
    for path in pages(site).values():
        tab.page.goto(path)
        if "/rq/" in path:
            tab.page.wait_for_selector(".rq > *")
        if path.startswith("/runs/"):
            tab.page.wait_for_selector("[data-drawn]")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390, path
    assert tab.page.get_by_role("link", name="Runs").is_visible()


def test_the_dark(tab: Watched) -> None:
    """The colours follow the system, and stay far enough apart to be read."""
    for scheme, brighter in (("light", "page"), ("dark", "ink")):
        tab.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        tab.page.goto("/")
        for where in ("body", ".state", ".dim", "nav a", "thead th"):
            ink, page = tab.page.locator(where).first.evaluate(COLOURS)
            high, low = sorted((brightness(ink), brightness(page)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, where, ink, page)
            assert (brightness(page) > brightness(ink)) is (brighter == "page")


COLOURS = """(element) => {
  const clear = (color) => color === 'rgba(0, 0, 0, 0)' || /[/] 0|^color/.test(color);
  let under = element;
  while (under.parentElement && clear(getComputedStyle(under).backgroundColor)) under = under.parentElement;
  return [getComputedStyle(element).color, getComputedStyle(under).backgroundColor];
}"""


def brightness(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_by_keyboard_alone(site: Site, tab: Watched) -> None:
    """Tab reaches the way past the menu, every page, filter and buttons; what has the focus shows it."""
    tab.page.goto("/runs")
    reached = walk(tab, 20)
    assert reached[0] == "Skip to the content"
    names = ["Overview", "Runs", "Sweeps", "Pipelines", "Schedule", "Nodes", "Queues", "Jobs", "Workers"]
    assert [name for name in reached if name in names] == names
    assert {"q", "state", "Show", "Log out"} <= set(reached)
    tab.page.goto("/runs")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.name") == "q"
    tab.page.keyboard.type("cheese")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/runs?q=cheese*")
    tab.page.goto(f"/runs/{site.scene.holding}")
    assert {"Cancel", "attempt", "stream", "follow"} <= set(walk(tab, 40))
    scene = site.scene
    for path, buttons in (
        (f"/pipelines/{scene.pipeline}", {"Retry what failed"}),
        ("/schedule", {"Pause", "Run now"}),
    ):
        tab.page.goto(path)
        assert buttons <= set(walk(tab, 25)), path


def walk(tab: Watched, steps: int) -> list[str]:
    """What gets the focus, by its name or text; each must show that it has it."""
    found = []
    for _ in range(steps):
        tab.page.keyboard.press("Tab")
        name, outline = tab.page.evaluate(
            "(() => { const e = document.activeElement;"
            " return e === document.body ? ['', 'none']"
            " : [e.name || e.innerText.trim(), getComputedStyle(e).outlineStyle]; })()"
        )
        if not name:  # behind the last one, back in the browser's own bar
            break
        assert outline != "none", name
        found.append(name)
    return found
