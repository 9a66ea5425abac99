"""Whether the exporter takes what a run makes, as far as config.json tells: said before anything is trained."""

from pathlib import Path

from dualbinary import InputError
from dualbinary.architectures.config_fields import built_values, refuse_common_values
from dualbinary.architectures.refused import refuse_type
from dualbinary.checkpoint import CONFIG_FILE
from dualbinary.files.json_objects import read_json_object

__all__ = ["export_doubt"]


def export_doubt(model_dir: Path) -> str | None:
    """Why an export of what is trained of `model_dir` is refused, or may be; None where nothing speaks against it.

    Also None where transformers does not read config.json, which a run says itself.
    """
    from transformers import AutoConfig

    try:
        raw = read_json_object(model_dir / CONFIG_FILE)
        read = AutoConfig.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
    except Exception:  # whatever the validation of a value raises
        return None
    model_type = str(raw.get("model_type"))
    try:
        refuse_type(model_type)
        refuse_common_values(model_type, raw)
        known = built_values(model_type, read) is not None
    except InputError as error:
        return f"the exporter does not take this model, so a checkpoint of it runs in PyTorch alone: {error}"
    if known:
        return None
    return (
        f"nobody has compared the export of a model_type {model_type!r}; python -m exporter {model_dir} OUT.onnx "
        "--check tells in advance whether it is right"
    )
