"""The tutorials and the worked example of the migration, typed as a reader would type them."""

from __future__ import annotations

import pytest

from tests.docs import blocks
from tests.project import Project


@pytest.mark.parametrize("page", ["tutorial-laptop.md", "migration-from-celery.md"])
def test_page_on_a_laptop(laptop: Project, page: str) -> None:
    """Every runnable block of the page, in order."""
    blocks.run(laptop, blocks.DOCS / page)


def test_testing_on_a_fake_slurm(laptop: Project) -> None:
    """Both files of tests that the page shows, and that they tested something."""
    laptop.env["PYTEST_ADDOPTS"] = "-p hpcpools.testing.plugin -p no:cacheprovider"  # as once installed
    printed = blocks.run(laptop, blocks.DOCS / "testing.md")
    assert "1 passed" in printed
    assert "12 passed" in printed


def test_tutorial_on_the_cluster(site: Project) -> None:
    """Every runnable block of the cluster's tutorial, on real Slurm."""
    blocks.run(site, blocks.DOCS / "tutorial-cluster.md")


@pytest.mark.parametrize(
    ("page", "translated"),
    [("README.md", "README.zh.md"), ("docs/tutorial-laptop.md", "docs/tutorial-laptop.zh.md")],
)
def test_translations_show_the_same_code(page: str, translated: str) -> None:
    """Blocks are equal but for comments, so that one of the two being run is enough."""
    there, here = (blocks.shown((blocks.REPOSITORY / name).read_text()) for name in (page, translated))
    assert there == here


def test_a_block_that_fails_is_found(laptop: Project) -> None:
    """A wrong exit code of a runnable block fails the page."""
    page = laptop.folder / "page.md"
    page.write_text("<!-- run: exit 3 -->\n```bash\nfalse\n```\n")
    with pytest.raises(AssertionError, match="ended with 1, not 3"):
        blocks.run(laptop, page)
