"""Chat templates: where a model keeps its own, and its text for a conversation, letter for letter transformers'.

Templates are written against transformers: beyond Jinja they use `raise_exception`, `strftime_now`, a `tojson` that
escapes neither HTML nor letters, `{% generation %}`, `{% break %}` and `{% continue %}`, and they ask whether `tools`
and `documents` are none. They come with the model and nobody has read them, so they run in Jinja's sandbox, which hands
out no Python objects, with bounds to their time and to what they make (runtime_ext/template_sandbox.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualbinary import InputError
from dualbinary.files.model_files import CHAT_TEMPLATE, CHAT_TEMPLATE_JSON, CHAT_TEMPLATES, TOKENIZER_CONFIG
from runtime_ext.config import read_json
from runtime_ext.template_budget import Budget
from runtime_ext.template_sandbox import TemplateSandbox

__all__ = ["ChatTemplate"]

# Characters; the longest that was published has 40 thousand.
_MAX_SOURCE = 1 << 18


class ChatTemplate:
    """The chat template of a model directory."""

    def __init__(self, directory: Path) -> None:
        """Find and compile it. Raises InputError where there is none, or one that does not compile."""
        self._directory = directory
        self._sandbox = TemplateSandbox()
        source = _find(directory)
        if len(source) > _MAX_SOURCE:
            raise InputError(
                f"{directory}: the chat template has {len(source)} characters, expected {_MAX_SOURCE} at most"
            )
        try:
            self._template = self._sandbox.counted_template(source)
        except Exception as error:  # a template is foreign code and fails in any way it likes
            raise self._failure(error) from error

    def render(self, messages: Sequence[Mapping[str, str]], special_tokens: Mapping[str, str]) -> str:
        """The text of a conversation up to the place where the answer begins.

        Raises InputError where the template does not accept the messages.
        """
        self._sandbox.budget = Budget()
        variables = {**special_tokens, "messages": messages, "tools": None, "documents": None}
        try:
            return self._template.render(variables, add_generation_prompt=True)
        except Exception as error:  # as above
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> InputError:
        return InputError(f"{self._directory}: the chat template failed: {error or type(error).__name__}")


def _find(directory: Path) -> str:
    """The text of the template that answers plain messages, from the first of its places.

    Several may have names, in a folder of their own or in tokenizer_config.json: then it is the one called "default".
    """
    named = {path.stem: path for path in sorted((directory / CHAT_TEMPLATES).glob("*.jinja"))}
    if (directory / CHAT_TEMPLATE).is_file():
        named.setdefault("default", directory / CHAT_TEMPLATE)
    template: Any = {name: _read(path) for name, path in named.items()}
    for settings in (TOKENIZER_CONFIG, CHAT_TEMPLATE_JSON):
        template = template or read_json(directory / settings).get("chat_template")
    if isinstance(template, list):
        template = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
    if isinstance(template, dict):
        if template and "default" not in template:
            raise InputError(
                f"{directory}: expected a chat template called default, got {', '.join(map(str, template))}; "
                f"copy the one to use to {CHAT_TEMPLATE}, or leave chat out"
            )
        template = template.get("default")
    if not isinstance(template, str):
        raise InputError(f"{directory}: the model has no chat template; leave chat out")
    return template


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from None
