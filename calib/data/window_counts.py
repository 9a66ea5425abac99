"""How many windows a run wants: those that its stages learn from and, last, those held out that it is judged by."""

from calib.config import CalibConfig
from calib.data.collect import generated_count

__all__ = ["BUDGET_WINDOWS", "calibration_windows", "held_out_windows", "windows_wanted", "windows_written"]

BUDGET_WINDOWS = 4  # of text that formats are measured on


def held_out_windows(config: CalibConfig) -> int:
    """Windows that losses are measured on and nothing learns from."""
    held_out = {"block": config.block.held_out, "e2e": config.e2e.held_out}
    return max(held_out.get(stage, 0) for stage in config.stages)


def calibration_windows(config: CalibConfig) -> int:
    """Windows that the stages before distillation learn from."""
    windows = {"init": config.init.windows, "block": config.block.windows}
    tables = config.init.windows if config.format.embedding_bits is not None else 0
    budget = BUDGET_WINDOWS if config.format.has_budget else 0
    return max(tables, budget, *(windows.get(stage, 0) for stage in config.stages))


def windows_wanted(config: CalibConfig) -> int:
    """All of them. Raises InputError where generated sequences are in a file that cannot be used."""
    e2e = config.e2e.steps * config.e2e.batch if "e2e" in config.stages else 0
    wanted = max(calibration_windows(config), e2e) + held_out_windows(config)
    return generated_count(config.data) if config.data.keep else wanted


def windows_written(config: CalibConfig) -> int:
    """Those that the model writes in this run, beside a text or alone."""
    data = config.data
    if not config.needs_tokens or not data.generate:
        return 0
    wanted = windows_wanted(config)
    return min(data.generate, wanted - round(wanted * data.text_share) if data.text else wanted)
