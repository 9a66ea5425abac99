"""One folder for all systems: the page's lines load the library that fits, and without one the function runs."""

# onnxruntime_genai fills its module at run time, where a type checker cannot see it.
# pyright: reportAttributeAccessIssue=false

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime_genai as genai
import pytest

import runtime_ext
from dualbinary.files.systems import SYSTEMS
from dualbinary.onnx_files.relayout.convert import relayout
from exporter.__main__ import main
from tests.support.sessions import logits
from tests.support.tiny_models import make_model
from tests.support.tiny_tokenizers import write_tokenizer
from tests.support.wheels import here, make_wheel

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "bundle.md"
BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text())
HERE = here()
OTHER = next(system for system in SYSTEMS if system != HERE)
PROMPT, LENGTH = [5, 6, 7], 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export with the library of every system beside it; that of this one is real."""
    work = tmp_path_factory.mktemp("bundle")
    for system in SYSTEMS:
        make_wheel(work / "dist", system, runtime_ext.library_path().read_bytes() if system == HERE else None)
    write_tokenizer(make_model("llama", work / "model"))
    out = work / "out" / "model.onnx"
    assert main([str(work / "model"), str(out), "--bundle", "all", "--bundle-from", str(work / "dist")]) == 0
    return out.parent


@pytest.fixture
def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "out"))


def test_the_folder_has_a_library_for_each_system_and_a_configuration_for_all(folder):
    assert {system.file for system in SYSTEMS} <= {path.name for path in folder.iterdir()}
    options = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]["session_options"]
    assert "custom_ops_library" not in options


def test_the_libraries_come_along_where_the_file_is_rewritten(folder, tmp_path):
    relayout(folder / "model.onnx", tmp_path / "model.onnx", "plain")
    assert (tmp_path / OTHER.file).read_bytes() == (folder / OTHER.file).read_bytes()


@pytest.mark.parametrize("fits", [True, False])
def test_the_lines_of_the_page_register_the_library_where_one_fits(copy, fits):
    if fits:  # then nothing else can run the model
        model = onnx.load(copy / "model.onnx", load_external_data=False)
        model.ClearField("functions")
        onnx.save(model, copy / "model.onnx")
    else:
        (copy / HERE.file).unlink()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[0]], cwd=copy.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fits", [True, False])
def test_genai_runs_the_folder_by_the_lines_of_the_page(copy, monkeypatch, fits):
    ids = list(PROMPT)
    while len(ids) < LENGTH:
        ids.append(int(logits(copy / "model.onnx", np.array([ids]))[0, -1].argmax()))
    if not fits:
        (copy / HERE.file).unlink()
    monkeypatch.chdir(copy.parent)
    block = BLOCKS[1].replace("libdualbinary-linux-x64.so", HERE.file)
    names = {"onnxruntime_genai": genai, "Path": Path}
    exec(block, names)  # the page's own words
    model = genai.Model(names["config"])
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=LENGTH, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(PROMPT)
    while not generator.is_done():
        generator.generate_next_token()
    assert generator.get_sequence(0).tolist() == ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "amiga"], "amiga: expected a system, one of"),
        (["--bundle", OTHER.name, "--bundle-from", "nowhere"], f"{OTHER.name}: no library in nowhere; `make wheels`"),
        (["--bundle", "all", "--op", "matmulnbits"], "--bundle: expected no value with --op matmulnbits"),
    ],
)
def test_what_cannot_be_bundled_is_said_before_any_work(tmp_path, capsys, arguments, message):
    assert main([str(tmp_path / "model"), str(tmp_path / "out" / "model.onnx"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
