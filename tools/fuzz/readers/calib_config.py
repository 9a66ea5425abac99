"""The configuration of a calibration run, --config: calib.config."""

import contextlib
import json
from collections.abc import Iterator

from calib.config import CalibConfig
from dualbinary import InputError
from tools.fuzz.readers.sections import in_directory

NAME = "calib_config"


def seeds() -> Iterator[bytes]:
    """A whole configuration, and the record of a run that holds one."""
    value = CalibConfig().to_json()
    yield json.dumps(value).encode()
    yield json.dumps({"config": value}).encode()


def try_input(data: bytes) -> None:
    """Read it as --config does, and write what was read."""
    with in_directory({"config.json": data}) as directory, contextlib.suppress(InputError):
        json.dumps(CalibConfig.read(directory / "config.json").to_json())
