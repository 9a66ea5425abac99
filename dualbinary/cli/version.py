"""The version of the distribution that these packages were installed from."""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version"]


def package_version() -> str:
    """The version of the installed distribution, "(not installed)" where the packages are run from a directory."""
    try:
        return version("dualbinary")
    except PackageNotFoundError:
        return "(not installed)"
