"""Versions of the operators that a model file was written for."""

from collections.abc import Mapping

from dualbinary.contract.schema import OP
from dualbinary.errors import InputError

__all__ = ["check_operator_versions"]


def check_operator_versions(imports: Mapping[str, int], file: object) -> None:
    """Raise InputError where `file` imports a domain of the operators in a version that this release does not know.

    `imports` are versions by domain. ONNX Runtime runs such a node with the meaning that the library knows.
    """
    for domain in OP.domain_names:
        version = imports.get(domain, OP.version)
        if version > OP.version:
            raise InputError(
                f"{file}: made for version {version} of the operators in {domain}, newer than {OP.version}, the newest "
                "that this release knows; upgrade dualbinary"
            )
