"""Registers the method "dualbinary" with transformers, when transformers is imported and not before.

transformers has a table of methods that others add to, and no entry points that it would look up itself. `import calib`
puts one finder in front of Python's: as soon as somebody imports that table, the method goes into it, and the finder is
gone. So importing this package costs neither torch nor transformers.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from dualbinary.checkpoint.config import QUANT_METHOD

__all__ = ["register", "register_when_imported"]

TABLE = "transformers.quantizers.auto"


def register_when_imported() -> None:
    """See the module's docstring; at once where transformers' table is there already. Twice is as good as once."""
    if TABLE in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def register() -> None:
    """Put the method into transformers' tables, unless it is there. Imports transformers."""
    from transformers.quantizers import auto

    if QUANT_METHOD in auto.AUTO_QUANTIZER_MAPPING:
        return
    from calib.packed.quantizer import DualBinaryConfig, DualBinaryQuantizer

    auto.register_quantization_config(QUANT_METHOD)(DualBinaryConfig)
    auto.register_quantizer(QUANT_METHOD)(DualBinaryQuantizer)


class _Finder(MetaPathFinder):
    """Finds TABLE as Python would, and has it loaded by `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TABLE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module as `loader` does, then registers."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()
