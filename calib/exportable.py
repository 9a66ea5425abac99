"""Whether the exporter takes what a run makes, as far as config.json tells: said before anything is trained."""

from pathlib import Path

from dualbinary import InputError
from dualbinary.architectures.config_fields import built_values, refuse_common_values
from dualbinary.architectures.refused import refuse_type
from dualbinary.checkpoint import CONFIG_FILE
from dualbinary.checkpoint.text_part import read_config, text_notes
from dualbinary.files.json_objects import read_json_object

__all__ = ["early_warnings"]


def early_warnings(model_dir: Path) -> list[str]:
    """What of `model_dir` a run leaves out, and why an export of what it makes is refused, or may be.

    Nothing where the directory cannot be read, which a run says itself.
    """
    from calib.models.loading import model_config  # late, with transformers: options come before it

    try:
        notes = text_notes(read_json_object(model_dir / CONFIG_FILE))
        config, read = read_config(model_dir), model_config(model_dir)
    except Exception:  # whatever the validation of a value raises
        return []
    model_type = str(config.get("model_type"))
    try:
        refuse_type(model_type)
        refuse_common_values(model_type, config)
        known = built_values(model_type, read) is not None
    except InputError as error:
        doubt = f"the exporter does not take this model, so a checkpoint of it runs in PyTorch alone: {error}"
        return [*notes, doubt]
    if known:
        return list(notes)
    return [
        *notes,
        f"nobody has compared the export of a model_type {model_type!r}; python -m exporter {model_dir} OUT.onnx "
        "--check tells in advance whether it is right",
    ]
