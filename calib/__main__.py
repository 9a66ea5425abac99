"""`python -m calib`: says that calibration isn't there yet."""

import sys

MESSAGE = (
    "error: calibration is not part of this release. `python -m exporter MODEL_DIR OUT.onnx` fits planes without data; "
    "its default of 4 planes with offset keeps the text good"
)

if __name__ == "__main__":
    print(MESSAGE, file=sys.stderr)
    sys.exit(1)
