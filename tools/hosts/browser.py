"""The page of examples/web in Chromium without a screen, by WebAssembly."""

from tools.hosts.npm import EXAMPLES, built_page, installed, run_json
from tools.hosts.task import Task

__all__ = ["NAME", "tokens"]

NAME = "Chromium"


def tokens(task: Task) -> list[int]:
    """See Host."""
    built_page()
    browser = installed(EXAMPLES.parent / "tools" / "browser")
    ids = ",".join(map(str, task.prompt_ids))
    return run_json(browser / "greedy.js", task.model.parent, "--ids", ids, "--count", task.count)["ids"]
