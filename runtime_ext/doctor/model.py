"""What lies beside a model, and whether it loads here, as the commands would load it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dualbinary.contract.schema import digest
from dualbinary.errors import DualBinaryError, InputError
from dualbinary.files.json_objects import read_json_object
from dualbinary.files.model_files import GENAI_CONFIG
from dualbinary.files.shared_library import missing_bytes, system_of_library
from dualbinary.files.systems import LIBRARY, SYSTEMS, this_system
from dualbinary.onnx_files.external_data import is_plain_location
from runtime_ext.doctor.findings import GOOD, NOTE, WRONG, Finding, checked
from runtime_ext.library import checked_library

__all__ = ["look_at_files", "look_at_model"]


def look_at_model(path: Path, provider: str) -> Iterator[Finding]:
    """Findings about an exported model and the files beside it, on the provider "cpu" or "cuda"."""
    try:
        from runtime_ext.load_errors import check_model_file
    except ImportError:
        return  # no ONNX Runtime, which is a finding already
    file = checked("file", lambda: _file(path, check_model_file))
    yield file
    if file.state == WRONG:
        return
    yield from _loaded(path, provider)
    yield checked("tokenizer", lambda: _tokenizer(path.parent))
    yield from look_at_files(path.parent)


def look_at_files(folder: Path) -> Iterator[Finding]:
    """Findings about the configuration and the libraries that lie beside a model."""
    yield from _genai(folder)
    yield from _libraries(folder)


def _file(path: Path, check_model_file: Any) -> str:
    check_model_file(path)
    files = [path, *sorted(file for file in path.parent.glob(f"{path.name}.*") if file.is_file())]
    return f"{path}, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB in {len(files)} files"


def _loaded(path: Path, provider: str) -> Iterator[Finding]:
    """Load it with the library or, where that is not usable, by the function inside."""
    from runtime_ext.decoder import Decoder
    from runtime_ext.providers import Provider

    library = True
    try:
        checked_library()
    except DualBinaryError:
        library = False
    way = "by the library" if library else "by the function inside it, which is slower and takes more memory"
    try:
        decoder = Decoder.load(path, library=library, provider=Provider(provider))
    except DualBinaryError as error:
        yield Finding("load", WRONG, str(error))
        return
    except ModuleNotFoundError:  # which is said of the machine already
        return
    context = decoder.config.context_length
    yield Finding("load", GOOD if library else NOTE, f"{way}, for up to {context} tokens on the provider {provider}")


def _tokenizer(folder: Path) -> str:
    try:
        from runtime_ext.text import TextCodec
    except ImportError as error:
        way = "`pip install tokenizers jinja2` brings it; where it is installed, reinstall it"
        raise InputError(f"a package that reads texts cannot be imported ({error}); {way}") from error
    TextCodec(folder)
    return "tokenizer.json is one"


def _genai(folder: Path) -> Iterator[Finding]:
    """What onnxruntime-genai makes of the folder."""
    path = folder / GENAI_CONFIG
    if not path.is_file():
        text = f"there is no {GENAI_CONFIG}, so onnxruntime-genai does not run it; copy it, too"
        yield Finding("configuration", NOTE, text)
        return
    try:
        config: Any = read_json_object(path)
        options = config.get("model", {}).get("decoder", {}).get("session_options", {})
        named = options.get("custom_ops_library")
    except InputError as error:
        yield Finding("configuration", WRONG, f"{error}; copy it again")
        return
    except AttributeError:
        yield Finding("configuration", WRONG, f"{path}: expected objects down to session_options; copy it again")
        return
    if named is None:
        text = f"{GENAI_CONFIG} names no library: onnxruntime-genai runs the function, and with an overlay the library"
        yield Finding("configuration", GOOD, text)
        return
    if not isinstance(named, str) or not is_plain_location(named):
        text = f"{path} names {ascii(named)[:80]} as custom_ops_library, which is no file beside it; take the key out"
        yield Finding("configuration", WRONG, text)
        return
    library = folder / named
    if not library.is_file():
        text = f"{path} names {named}, which is not beside it; onnxruntime-genai then loads nothing; copy it there, or "
        yield Finding("configuration", WRONG, text + "take the key custom_ops_library out")
    elif library.is_symlink():
        text = f"{library} is a link, which onnxruntime-genai refuses; copy the file there"
        yield Finding("configuration", WRONG, text)
    else:
        yield Finding("configuration", GOOD, f"{GENAI_CONFIG} names {named}, which is there")


def _libraries(folder: Path) -> Iterator[Finding]:
    """The libraries beside the model, of this system and of others."""
    names = {system.file: system for system in SYSTEMS}
    here = this_system()
    if here is not None:
        names[here.installed_file] = here
    paths = [folder / name for name in sorted(names) if (folder / name).is_file()]
    wrong = [text for path in paths if (text := _wrong(path, names[path.name].name))]
    for text in wrong:
        yield Finding("libraries", WRONG, text)
    if paths and not wrong:
        yield Finding("libraries", GOOD, f"{', '.join(path.name for path in paths)} fit this package")
    if not paths:
        file = here.file if here else f"{LIBRARY}'s"
        text = f"none beside it, so that other hosts run the function; `dualbinary bundle` lays {file} there"
        yield Finding("libraries", NOTE, text)


def _wrong(path: Path, expected: str) -> str:
    """What is wrong with a library beside a model, which is read and not loaded."""
    content = path.read_bytes()
    system = system_of_library(content)
    if system is None or missing_bytes(content, len(content)):
        return f"{path}: expected a whole library for {expected}; copy it again"
    if system.name != expected:
        return (
            f"{path}: expected a library for {expected}, got one for {system.name}; `dualbinary bundle` writes it anew"
        )
    if digest().encode() not in content:
        return f"{path}: built from another contract than {digest()}; `dualbinary bundle` renews it"
    return ""
