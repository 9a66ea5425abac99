"""Where an ONNX file says that its data are: plain names below its folder, and no more than is there."""

import contextlib

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from dualbinary import InputError
from dualbinary.onnx_files.external_data import check_external_data, is_plain_location


def outside(location, **entries):
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


def in_initializer(graph, tensor):
    graph.initializer.append(tensor)


def in_attribute(graph, tensor):
    graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def in_list(graph, tensor):
    graph.node.append(helper.make_node("X", [], ["c"]))
    graph.node[-1].attribute.add(name="t", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)


def in_branch(graph, tensor):
    inner = helper.make_graph([], "inner", [], [], initializer=[tensor])
    graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=inner))


def in_sparse(graph, tensor):
    graph.sparse_initializer.add().values.CopyFrom(tensor)


def in_sparse_attribute(graph, tensor):
    graph.node.append(helper.make_node("Constant", [], ["c"]))
    graph.node[-1].attribute.add(name="s").sparse_tensor.indices.CopyFrom(tensor)


PLACES = (in_initializer, in_attribute, in_list, in_branch, in_sparse, in_sparse_attribute)


def write(path, tensor, place=in_initializer, *, function=False, training=False):
    graph = helper.make_graph([], "g", [], [])
    place(graph, tensor)
    model = helper.make_model(helper.make_graph([], "m", [], []) if function or training else graph)
    if function:
        model.functions.add(name="f", domain="d").node.extend(graph.node)
    if training:
        model.training_info.add().algorithm.CopyFrom(graph)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_path_that_leads_out_is_found_wherever_a_tensor_can_be(tmp_path, place):
    path = write(tmp_path / "model.onnx", outside("../secret"), place)
    with pytest.raises(InputError, match=r"its data file is '\.\./secret', which does not lie beside it"):
        check_external_data(path)
    check_external_data(write(tmp_path / "other.onnx", outside("model.onnx.data"), place))


def test_functions_and_training_graphs_are_entered(tmp_path):
    for more in ({"function": True}, {"training": True}):
        with pytest.raises(InputError, match="does not lie beside it"):
            check_external_data(write(tmp_path / "model.onnx", outside("/etc/x"), in_attribute, **more))


@pytest.mark.parametrize(
    "location",
    [
        "..",
        "../a",
        "a/..",
        "a/../b",
        "./a",
        "a/./b",
        "/a",
        "//a",
        "",
        ".",
        "a//b",
        "a/",
        r"..\a",
        r"C:\a",
        "C:a",
        "a\x00b",
        "*/x/*",
        "a\nb",
        "a?",
    ],
)
def test_locations_that_are_no_plain_names(location):
    assert not is_plain_location(location)


@pytest.mark.parametrize("location", ["a", "model.onnx.data", "a/b", "..a", "a..", ".a/b", "größe 1", "a.b/c..d"])
def test_plain_names(location):
    assert is_plain_location(location)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": -1}, "offset of its data: expected 0 to 9223372036854775807, got '-1'"),
        ({"offset": 1 << 63}, "offset of its data"),
        ({"length": "0x8"}, "length of its data"),
        ({"length": " 8"}, "length of its data"),
        ({"offset": 60, "length": 8}, "has 64 bytes, less than it needs"),
        ({"offset": (1 << 63) - 1, "length": (1 << 63) - 1}, "has 64 bytes, less than it needs"),
    ],
)
def test_places_that_are_not_in_the_file(tmp_path, entries, message):
    (tmp_path / "data").write_bytes(bytes(64))
    with pytest.raises(InputError, match=message):
        check_external_data(write(tmp_path / "model.onnx", outside("data", **entries)))
    check_external_data(write(tmp_path / "model.onnx", outside("data", offset=56, length=8)))


@given(st.binary(max_size=200))
def test_whatever_the_bytes_are_the_answer_is_yes_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        check_external_data(path)


@given(st.integers(0, 400))
def test_a_file_that_is_cut_off_is_refused_or_ends_with_a_field(tmp_path_factory, end):
    path = write(tmp_path_factory.mktemp("model") / "model.onnx", outside("../secret"))
    whole = path.read_bytes()
    path.write_bytes(whole[: min(end, len(whole))])
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        readable = True
    except Exception:
        readable = False
    if not readable or model.graph.initializer:
        with pytest.raises(InputError):
            check_external_data(path)


def test_a_file_in_itself_without_end_is_refused(tmp_path):
    graph = onnx.GraphProto()
    graph.initializer.append(outside("model.onnx.data"))
    content = graph.SerializeToString()
    for number in [6, 5, 1] * 40:  # a graph in an attribute of a node of a graph ...
        content = bytes([number << 3 | 2]) + _length(content) + content
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes([7 << 3 | 2]) + _length(content) + content)
    with pytest.raises(InputError, match="cut off, damaged, or no ONNX file"):
        check_external_data(path)


def _length(content):
    size, made = len(content), b""
    while size > 127:
        made += bytes([size & 127 | 128])
        size >>= 7
    return made + bytes([size])
