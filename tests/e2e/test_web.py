"""The page of examples/web: in Chromium, as a person uses it; its engine without a browser; and its server."""

import http.client
import json
import re
import subprocess
from pathlib import Path

import pytest

from exporter.options import ExportOptions
from exporter.pipeline import export
from tests.support import javascript
from tests.support.javascript import COUNT, PROMPT, built_page, continued, greedy, make_source, node, package


@pytest.fixture(scope="module")
def page() -> Path:
    return built_page()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_source("llama", tmp_path_factory.mktemp("source") / "llama")


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("folder") / "tiny"
    export(source, folder / "model.onnx", ExportOptions(planes=4))
    return folder


@pytest.fixture(scope="module")
def seen(page, folder) -> dict:
    """One visit of the page, for several tests."""
    return javascript.seen(package("tools/browser") / "visit.js", folder)


def test_a_conversation_has_the_answers_of_python(seen, folder):
    answers = javascript.answers(folder / "model.onnx", folder, ["Hi", "And?"], 5)
    assert seen["problems"] == []
    assert seen["isolated"] is True
    assert seen["facts"][0] == "WebAssembly, 2 threads"
    assert seen["questions"] == ["Hi", "And?"]
    assert seen["answers"] == [answer for answer in answers if answer]  # an empty one has no place on the page
    assert seen["again"] == answers[:1]
    assert seen["opened"] == answers[:1]
    assert re.match(r"\d tokens · first after \d+\.\d\d s · \d+\.\d tokens/s", seen["stats"])


def test_everything_that_can_be_pressed_has_a_name(seen):
    assert seen["unnamed"] == []


def test_an_answer_and_a_download_can_be_stopped(seen):
    assert "stopped" in seen["stopped"] or "tokens" in seen["stopped"]
    assert seen["cancelled"] == "Loading was cancelled."


def test_what_is_wrong_is_said_on_the_page(seen):
    assert "tokens and the model takes 128; reset it" in seen["full"]
    assert "3.0 GB are too much for a page" in seen["large"]
    assert "100 of" in seen["short"] or "file of weights" in seen["short"]
    assert "no genai_config.json" in seen["nothing"]
    assert seen["alone"][0] == "WebAssembly, 1 thread, as the server does not isolate the page"
    assert seen["old"].startswith("This browser lacks WebAssembly with vectors (SIMD)")


@pytest.mark.parametrize(
    "options",
    [
        {},  # MatMulNBits too, by the function inside the model
        pytest.param({"op": "matmulnbits", "levels": "even"}, marks=pytest.mark.slow),
        pytest.param({"dtype": "fp16"}, marks=pytest.mark.slow),
        pytest.param({"op": "dequantizelinear", "levels": "even"}, marks=pytest.mark.slow),
        {"layout_for": "transformersjs"},
    ],
)
def test_webassembly_without_a_browser_continues_as_python_does(page, source, tmp_path, options):
    """The engine of the page in Node.js, compiled once and in haste: a second, where a browser takes many."""
    path = export(source, tmp_path / "model.onnx", ExportOptions(planes=4, **options)).path
    found = continued("--liftoff-only", page.parent / "wasm.js", tmp_path)
    assert found["ids"] == greedy(path, PROMPT, COUNT)


@pytest.mark.parametrize("host", javascript.HOSTS)
def test_the_hosts_of_the_table_continue_as_python_does(source, folder, tmp_path, host):
    path = folder / "model.onnx"
    assert javascript.tokens_of_host(host, path, source, tmp_path) == greedy(path, PROMPT, COUNT)


def test_the_server_gives_the_page_and_the_model_and_nothing_else(page, folder):
    command = [node(), str(page.parent / "serve.js"), "--port", "0", "--page", str(page), str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().strip().rstrip("/").rpartition(":")[2])
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

        def get(path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
            client.request(method, path)
            response = client.getresponse()
            return response.status, response.read(), dict(response.getheaders())

        status, body, headers = get("/")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b"<title>dualbinary</title>" in body
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert json.loads(get("/model/config.json")[1])["model_type"] == "llama"
        assert get("/model/model.onnx.data", "HEAD")[1] == b""
        for path in (
            "/model/../../source",
            "/..%2f..%2fpackage.json",
            "/%2e%2e/package.json",
            "/model/",
            "/%zz",
            "/nowhere",
        ):
            assert get(path)[0] == 404, path
        assert get("/", "POST")[0] == 405
    finally:
        server.terminate()
        server.wait(20)
