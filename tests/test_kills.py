"""A build that is killed at random moments gives the bytes of one that nobody killed; see tests/kill_driver.py."""

from pathlib import Path

import pytest

from tests.kill_driver import Project, kill_again_and_again, make_clone

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kills"), pytest.mark.timeout(1800)]


def test_a_build_that_is_killed_at_random_moments_gives_the_same_bytes(tmp_path: Path) -> None:
    make_clone(tmp_path)
    done = kill_again_and_again(Project(tmp_path, "textcaps"), 12, 2024, tmp_path / "build.log")
    assert done.number == 12
    assert done.builds >= 1
    assert sum(done.signals.values()) == 12
