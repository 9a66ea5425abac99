"""onnxruntime-node, by the example that chats in the terminal; there the function inside the model runs."""

from tools.hosts.npm import EXAMPLES, installed, run_json
from tools.hosts.task import Task

__all__ = ["NAME", "tokens"]

NAME = "Node.js"


def tokens(task: Task) -> list[int]:
    """See Host."""
    host = installed(EXAMPLES / "node")
    ids = ",".join(map(str, task.prompt_ids))
    answer = run_json(host / "chat.js", task.model.parent, "--ids", ids, "--count", task.count, "--json")
    return answer["ids"]
