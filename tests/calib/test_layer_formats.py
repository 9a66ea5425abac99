"""Formats of single modules: what --override says, and every way in which it says nothing that can be done."""

import re
import shutil

import pytest

from calib.__main__ import main, parser
from calib.config import FormatConfig
from calib.layer_formats import LayerFormats, Override, override_text
from calib.models.source import SourceModel
from calib.options import config_from
from dualbinary import InputError
from dualbinary.contract.scale_codes import BFLOAT16
from dualbinary.contract.weight import EACH_GROUP, PlaneFormat
from dualbinary.metrics.formats import format_words

DEFAULT = PlaneFormat(2, 64, offset=True)
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


def formats(*texts, default=DEFAULT):
    return LayerFormats(default, tuple(map(Override.parse, texts)))


def test_all_that_match_count_and_the_last_wins():
    found = formats("*.q_proj:planes=3,group_size=32", "model.layers.0.*:planes=4,offset=false", f"{DOWN}:planes=1")
    assert found.of(Q) == PlaneFormat(4, 32)
    assert found.of(DOWN) == PlaneFormat(1, 64, offset=True)
    assert found.of("model.layers.1.self_attn.k_proj") == DEFAULT


def test_every_value_of_a_format_can_be_another_one():
    text = "*:planes=8,group_size=16,levels=even,offset=false,zero=128,scale_type=bfloat16"
    assert formats(text).of(Q) == PlaneFormat(8, 16, levels="even", zero=128, scale_dtype=BFLOAT16)
    assert formats("*:levels=even,offset=false,zero=group,group_size=-1").of(Q) == PlaneFormat(
        2, -1, levels="even", zero=EACH_GROUP
    )


def test_a_zero_belongs_to_the_levels_that_it_was_given_for():
    default = PlaneFormat(4, 32, levels="even", zero=8)
    assert formats("*:group_size=64", default=default).of(Q).zero == 8
    assert formats("*:planes=2", default=default).of(Q).zero == 1.5  # the middle
    assert formats("*:offset=true", default=default).of(Q).zero == 0
    assert formats("*:levels=free", default=default).of(Q) == PlaneFormat(4, 32)


@pytest.mark.parametrize(
    "form",
    [
        DEFAULT,
        PlaneFormat(3, 32),
        PlaneFormat(4, 16, levels="even", zero=EACH_GROUP),
        PlaneFormat(1, -1, levels="even", zero=0.5),
        PlaneFormat(5, 32, offset=True, levels="even", scale_dtype=BFLOAT16),
    ],
    ids=format_words,
)
@pytest.mark.parametrize("default", [DEFAULT, PlaneFormat(4, 32, levels="even", zero=8)], ids=format_words)
def test_the_override_that_gives_a_format_can_be_written(form, default):
    text = override_text(Q, form, default)
    assert (formats(text, default=default) if text else LayerFormats(default)).of(Q) == form


WRONG = [
    ("planes=3", "expected PATTERN:field=value"),
    ("*.q_proj:", "expected PATTERN:field=value"),
    ("*.q_proj:bits=3", "expected field=value with one of planes, .* got 'bits=3'"),
    ("*.q_proj:planes", "got 'planes'"),
    ("*.q_proj:planes=two", "planes: expected a number, got 'two'"),
    ("*.q_proj:planes=3,planes=2", "planes is given twice"),
    ("*.q_proj:offset=no", "offset: expected true or false, got 'no'"),
    ("*.q_proj:levels=symmetric", "levels: expected free or even"),
    ("*.q_proj:zero=some", "zero: expected a number, or group, got 'some'"),
    ("*.q_proj:scale_type=int4", "scale_type: expected one of float16, float32, bfloat16"),
    ("*.q_proj:planes=9", "q_proj: planes: expected an integer from 1 to 8, got 9"),
    ("*.q_proj:planes=5", "q_proj: planes: expected 1 to 4 with free levels, got 5"),
    ("*.q_proj:group_size=16", "q_proj: group_size: expected .*16 with even levels, got 16"),
    ("*.q_proj:group_size=256", "q_proj: group_size: expected at most 128 for 128 inputs, got 256"),
    ("*.q_proj:zero=1", "q_proj: zero: expected 0 with free levels"),
    ("*.q_proj:levels=even,zero=1", "q_proj: zero: expected 0 beside an offset"),
    ("*.q_proj:levels=even,offset=false,zero=3.5", "q_proj: zero: expected a multiple of 0.5 from 0 to 3"),
    ("*.q_prj:planes=3", r"matches no module that is quantized; some are called model\.layers\.0\.self_attn\.q_proj, "),
    ("lm_head:planes=3", "matches no module that is quantized"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_an_override_that_cannot_be_is_one_clear_error(tiny_model, text, message):
    with pytest.raises(InputError, match=message) as error:
        SourceModel(tiny_model("llama"), formats(text))
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_the_bases_of_qbb_take_no_other_levels(tiny_model):
    config = FormatConfig(method="qbb", override=("*.q_proj:planes=3", "*.k_proj:levels=even"))
    with pytest.raises(InputError, match=r"k_proj: levels: expected none with --method qbb"):
        SourceModel(tiny_model("llama"), config.layer_formats)
    assert config.layer_formats.of(Q) == PlaneFormat(3, 96, offset=True, levels="symmetric")


def test_a_command_line_gives_overrides_again_and_again():
    arguments = ["--override", "*.q_proj:planes=3", f"{DOWN}:planes=1", "--override", "*.k_proj:levels=even"]
    config = config_from(parser().parse_args(["model", "out", *arguments]))
    assert config.format.override == ("*.q_proj:planes=3", f"{DOWN}:planes=1", "*.k_proj:levels=even")
    even = ["--levels", "even", "--no-offset", "--zero"]
    assert config_from(parser().parse_args(["model", "out", *even, "group"])).format.zero == EACH_GROUP
    assert config_from(parser().parse_args(["model", "out", *even, "1"])).format.zero == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--override", "*.q_prj:planes=3"], r"error: --override \*\.q_prj:planes=3: matches no module"),
        (["--override", "*:bits=3"], r"error: --override \*:bits=3: expected field=value"),
        (["--planes", "5"], "error: --planes: expected 1 to 4 with free levels, got 5"),
        (["--zero", "1"], "zero: belongs to --levels even with --no-offset"),
        (["--levels", "even", "--no-offset", "--zero", "9"], "error: --zero: expected a multiple of 0.5 from 0 to 3"),
        (["--levels", "even", "--no-offset", "--zero", "x"], "error: .*zero"),
        (["--method", "qbb", "--levels", "even"], "levels: even ones belong to --method fdb"),
        (["--levels", "even", "--init-method", "paper"], "init.method: expected one of .* for even levels, got paper"),
    ],
    ids=" ".join,
)
def test_a_command_ends_with_one_line_and_leaves_nothing(tiny_model, tmp_path, capsys, arguments, message):
    directory = tiny_model("llama")
    capsys.readouterr()  # of what makes the model
    assert main([str(directory), str(tmp_path / "out"), "--generate", "16", *arguments]) == 2
    printed = capsys.readouterr().err.strip()
    assert re.search(message, printed)
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "module"), [("llama", Q), ("gpt2", "transformer.h.0.attn.c_attn"), ("gpt2", "h.0.attn.c_attn")]
)
def test_a_plan_without_files_takes_names_with_the_prefix_or_without(tiny_model, tmp_path, capsys, name, module):
    shutil.copy(tiny_model(name) / "config.json", tmp_path)
    text = [str(tmp_path), "out", "--plan", "--length", "32", "--stages", "init", "--init-method", "fit", "--override"]
    assert main([*text, f"{module}:planes=1"]) == 0
    less = float(re.search(r"at ([\d.]+) bits", capsys.readouterr().out)[1])  # pyright: ignore[reportOptionalSubscript]
    assert main([*text, "*:planes=2"]) == 0
    assert less < float(re.search(r"at ([\d.]+) bits", capsys.readouterr().out)[1])  # pyright: ignore[reportOptionalSubscript]
    assert main([*text, "*.other:planes=1"]) == 2
    assert "matches no module" in capsys.readouterr().err
