"""One HTML file with everything that a record and its analyses say; it loads nothing from elsewhere."""

from pathlib import Path
from typing import Any

from calib.report.analyses import AFTER, BEFORE
from calib.report.charts import analysis_charts, run_charts
from calib.report.summary import NOTES, flops, sentences, table_rows, totals_rows
from dualbinary.pages.page import render

__all__ = ["page"]

TEMPLATE = Path(__file__).with_name("page.html")
OPERATIONS = {
    "full": "full precision",
    "quantised": "quantized, by the paper's rule",
    "every_bit": "by the same rule, zero bits counted too",
    "additions": "an addition for each bit that is set, nothing divided by 16",
}


def page(record: dict[str, Any], analyses: dict[str, Any] | None) -> str:
    """The page of a record, and of analyses where there are any. Raises InputError where matplotlib is missing."""
    counted = flops(record)
    layer_titles, *layer_rows = table_rows(record)
    stage_titles, *stage_rows = totals_rows(record)
    return render(
        TEMPLATE,
        record=record,
        sentences=sentences(record),
        stage_titles=stage_titles,
        stage_rows=stage_rows,
        charts=run_charts(record),
        analyses=analyses,
        analysis_charts=analysis_charts(analyses) if analyses else [],
        balance_titles=["checkpoint", "most likely token", "probability", "nats"],
        balance_rows=_balance_rows(analyses) if analyses else [],
        flops=counted,
        operation_rows=[[text, f"{counted[key] / 1e9:.4g}"] for key, text in OPERATIONS.items()],
        block_rows=_block_rows(record),
        layer_titles=layer_titles,
        layer_rows=layer_rows,
        notes=NOTES,
    )


def _balance_rows(analyses: dict[str, Any]) -> list[list[str]]:
    models = analyses["preference"]["models"]
    balances = {name: models[name]["balance"] for name in (BEFORE, AFTER) if name in models}
    return [[name, *(_number(one[key], "+.4f") for key in ("argmax", "mass", "nll"))] for name, one in balances.items()]


def _block_rows(record: dict[str, Any]) -> list[list[str]]:
    return [
        [block["name"], *(_number(block.get(f"error_{when}"), ".5f") for when in ("before", "after")), minutes]
        for block in record["blocks"]
        for minutes in [f"{block['seconds'] / 60:.2f}"]
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
