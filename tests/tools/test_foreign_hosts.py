"""The example programs in other languages give the tokens of Python, from a tiny export."""

from pathlib import Path

import pytest

from exporter.options import ExportOptions
from exporter.pipeline import export
from runtime_ext.decoder import Decoder
from runtime_ext.generate import Generation, generate
from runtime_ext.library import library_path
from runtime_ext.sampling import Sampler
from tests.support.tiny_models import make_model
from tools.foreign import command
from tools.hosts import cpp, csharp, java
from tools.hosts.task import NotHereError, Task, host_of

# What a host downloads and compiles is kept, as the command tools.hosts keeps it.
WORK = Path(__file__).resolve().parents[2] / "build" / "hosts"
PROMPT, COUNT = (5, 6, 7), 8


@pytest.fixture(scope="module", params=["model", "int8"])
def task(request, tmp_path_factory) -> Task:
    directory = tmp_path_factory.mktemp("hosts")
    source = make_model("llama", directory / "model")
    path = directory / "out" / "model.onnx"
    export(source, path, ExportOptions(kv_cache=request.param), library=library_path())
    WORK.mkdir(parents=True, exist_ok=True)
    return Task(path, source, WORK, PROMPT, COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("module", [cpp, java, csharp], ids=["cpp", "java", "csharp"])
def test_a_program_gives_the_tokens_of_python(task, module):
    expected = list(generate(Decoder.load(task.model), list(PROMPT), COUNT, Sampler(), Generation([])))
    try:
        found = host_of(module).tokens(task)
    except NotHereError as error:
        if "was not found" not in str(error):
            raise
        pytest.skip(str(error))
    assert found == expected


def test_what_a_machine_lacks_is_said_with_the_way_out():
    with pytest.raises(NotHereError, match="no-such-tool was not found: install it"):
        command.tool("no-such-tool", "install it")


def test_a_command_that_fails_says_its_last_words():
    with pytest.raises(NotHereError, match=r"ended with 3: the way it went"):
        command.call("sh", "-c", "echo the way it went >&2; exit 3")
