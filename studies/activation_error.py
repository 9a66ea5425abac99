"""What accuracy level 4 and an int8 cache cost each layer of a model on real text, and the model's output.

    python -m studies.activation_error MODEL_DIR|OUT.onnx --text FILE [--windows 2] [--length 128] [--out FILE.json]

A model directory, or a GGUF file, is exported first, at level 0 with the logits of all tokens; an exported file has to
be such. For each product, with the kernels of this machine:

    error       sqrt of sum (Y4 - Y0)^2 / sum Y0^2 over a token's outputs, of the same input: mean over tokens
    worst       the same of the worst token
    outlier     the largest input of a token over the root mean square of its inputs: largest over tokens
    kl          KL of the model's next-token distribution from that of level 0, with this product alone at level 4, in
                nats: mean over tokens

and for each layer's keys and values, once rounded to int8, `error`, and `kl` with this layer's cache alone as int8,
where the layer's attention is one node. Then the KL of all at once, and of all products but the worst few, which
is what exact layers would give. --out is written as figures come in, and FILE.svg beside it at the end. Products of a
prompt are those of many rows; a token alone takes other kernels of the same level.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

import runtime_ext
from dualbinary import DualBinaryError, InputError
from dualbinary.cli.console import add_common_options, run
from dualbinary.contract.blocks import int8_rows
from dualbinary.files.atomic import write_text
from dualbinary.pages.drawing import SERIES_COLORS, dots, new_figure, positive_log, svg
from runtime_ext.cache import cache_tensors
from studies.level_variants import Model, Product
from studies.windows import windows_of

__all__ = ["Probe", "main", "picture", "table"]

Row = dict[str, Any]
EXACT_COUNTS = (1, 2, 4, 8, 16, 32)
_EPS = 1e-30


class Probe:
    """Runs variants of a model over windows of tokens, and compares their output with that of the model itself."""

    def __init__(self, model: Model, windows: np.ndarray) -> None:
        self.model, self._windows = model, windows
        self._expected: list[torch.Tensor] = []
        self.presents: list[dict[str, np.ndarray]] = []
        session = model.session()
        for window in windows:
            tensors = cache_tensors(session)
            logits, *presents = _run(session, window, ["logits", *(each.present for each in tensors)])
            self._expected.append(torch.from_numpy(logits[0]).log_softmax(-1))
            self.presents.append({each.present: value for each, value in zip(tensors, presents, strict=True)})

    def kl(self, session: ort.InferenceSession) -> float:
        """KL of the output from that of the model, in nats a token."""
        total = 0.0
        for window, expected in zip(self._windows, self._expected, strict=True):
            found = torch.from_numpy(_run(session, window, ["logits"])[0][0]).log_softmax(-1)
            terms = (expected.exp() * (expected - found)).sum(-1)
            total += float(terms.double().sum())
        return total / self._windows.size

    def products(self) -> dict[str, Row]:
        """Errors of each product by itself."""
        session, twins = self.model.twins()
        found: dict[str, list[list[np.ndarray]]] = {twin.name: [] for twin in twins}
        names = [name for twin in twins for name in (twin.difference, twin.exact, twin.largest, twin.power)]
        for window in self._windows:
            values = [value.ravel() for value in _run(session, window, names)]
            for index, twin in enumerate(twins):
                found[twin.name].append(values[4 * index : 4 * index + 4])
        rows = {}
        for name, parts in found.items():
            difference, exact, largest, power = (np.concatenate(each) for each in zip(*parts, strict=True))
            errors = np.sqrt(difference / np.maximum(exact, _EPS))
            outliers = largest / np.sqrt(np.maximum(power, _EPS))
            rows[name] = {"error": errors.mean(), "worst": errors.max(), "outlier": outliers.max()}
        return {name: {key: float(value) for key, value in row.items()} for name, row in rows.items()}

    def caches(self) -> dict[str, Row]:
        """Errors of keys and values of each layer, rounded to int8."""
        rows: dict[str, Row] = {}
        for name in self.presents[0]:
            values = np.concatenate([each[name] for each in self.presents], axis=2).astype(np.float32)
            stored = int8_rows(values)
            back = stored[..., :-4] * np.ascontiguousarray(stored[..., -4:]).view("<f4")
            error = np.sqrt(((back - values) ** 2).sum() / (values.astype(np.float64) ** 2).sum())
            _, layer, kind = name.split(".")
            rows.setdefault(layer, {})[f"{kind}_error"] = float(error)
        return rows


def _run(session: ort.InferenceSession, window: np.ndarray, names: list[str]) -> list[np.ndarray]:
    feeds: dict[str, Any] = {each.past: each.zeros(0) for each in cache_tensors(session)}
    feeds |= {"input_ids": window[None], "attention_mask": np.ones((1, len(window)), np.int64)}
    if "position_ids" in {value.name for value in session.get_inputs()}:
        feeds["position_ids"] = np.arange(len(window))[None]
    return [np.asarray(value) for value in session.run(names, feeds)]


def measure(probe: Probe, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All figures: `products` and `caches` with the worst first, and `together`; `keep` gets those so far."""
    by_name, caches, together = probe.products(), probe.caches(), {}
    products, open_with = probe.model.products, probe.model.session

    def figures() -> dict[str, Any]:
        named = [{"product": name, **row} for name, row in by_name.items()]
        layers = [{"layer": int(layer), **row} for layer, row in caches.items()]
        found = {"products": sorted(named, key=_worst), "caches": sorted(layers, key=_worst), "together": together}
        keep(found)
        return found

    together["level 4"] = probe.kl(open_with(products))
    if probe.model.caches:
        together["int8 cache"] = probe.kl(open_with(int8=probe.model.caches))
    figures()
    for product in products:
        by_name[product.name]["kl"] = probe.kl(open_with([product]))
        figures()
    for layer in probe.model.caches:
        caches[str(layer)]["kl"] = probe.kl(open_with(int8=[layer]))
        figures()
    worst = sorted(products, key=lambda each: -by_name[each.name]["kl"])
    for count in (each for each in EXACT_COUNTS if each < len(products)):
        together[f"level 4, worst {count} exact"] = probe.kl(open_with(worst[count:]))
    return figures()


def _worst(row: Row) -> float:
    return -row.get("kl", 0.0)


def table(found: dict[str, Any], most: int = 12) -> str:
    """The figures as Markdown: the worst few of each kind."""
    lines = ["| product | error | worst token | outlier | KL alone |", "| --- | --- | --- | --- | --- |"]
    for row in found["products"][:most]:
        lines.append(
            f"| {row['product']} | {row['error']:.4f} | {row['worst']:.4f} | {row['outlier']:.0f} | {_shown(row)} |"
        )
    lines += ["", "| cache of layer | keys | values | KL alone |", "| --- | --- | --- | --- |"]
    for row in found["caches"][:most]:
        lines.append(f"| {row['layer']} | {row['key_error']:.4f} | {row['value_error']:.4f} | {_shown(row)} |")
    lines += ["", "| together | KL |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {kl:.2e} |" for name, kl in found["together"].items()])


def _shown(row: Row) -> str:
    return f"{row['kl']:.2e}" if "kl" in row else "not measured"


def picture(found: dict[str, Any], order: list[Product]) -> str:
    """SVG: errors of products, and the KL of each alone, in the order of the model."""
    figure, (left, right) = new_figure(2)
    rows = {row["product"]: row for row in found["products"]}
    kinds = dict.fromkeys(_kind(each.name) for each in order)
    for kind, color in zip(kinds, SERIES_COLORS, strict=False):
        chosen = [rows[each.name] if _kind(each.name) == kind else None for each in order]
        dots(left, [row and row["error"] for row in chosen], kind, color)
        dots(right, [row and max(row.get("kl", 0.0), _EPS) for row in chosen], kind, color)
    left.set(xlabel="product", ylabel="relative error at level 4")
    right.set(xlabel="product", ylabel="KL with it alone at level 4")
    for axes in (left, right):
        positive_log(axes, [1.0])
    return svg(figure, "activation_error")


def _kind(product: str) -> str:
    leaf = product.rpartition(".")[2]
    if leaf.startswith(("q_", "k_", "v_")):
        return "q, k, v"
    return {"o": "o", "gate": "gate, up", "down": "down"}.get(leaf.partition("_")[0], "others")


@contextmanager
def _exported(source: Path) -> Iterator[Path]:
    """The file itself, or an export of a directory or GGUF file, which goes away again."""
    if source.suffix == ".onnx":
        yield source
        return
    own = [name for name in runtime_ext.describe()["layouts"] if name not in ("plain", "codes")]
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "model.onnx"
        options = ["--logits", "all", "--quiet", "--layout", own[0] if own else "plain"]
        command = [sys.executable, "-m", "exporter", str(source), str(path), *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise DualBinaryError(f"{source}: cannot be exported: {done.stderr.strip()}")
        yield path


def _command(args: argparse.Namespace) -> None:
    if args.out is not None and args.out.suffix != ".json":
        raise InputError(f"--out: expected a name that ends in .json, got {args.out}")
    with _exported(args.model) as path:
        windows = windows_of(path.parent, args.text, args.windows, args.length)
        model = Model(path, args.threads)

        def keep(found: dict[str, Any]) -> None:
            if args.out is not None:
                write_text(args.out, json.dumps(found, indent=1) + "\n")

        found = measure(Probe(model, windows), keep)
    if args.out is not None:
        write_text(args.out.with_suffix(".svg"), picture(found, model.products))
    print(json.dumps(found, indent=1) if args.json else table(found))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.activation_error",
        description="What accuracy level 4 and an int8 cache cost each layer on real text.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory, GGUF file, or exported .onnx file")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="plain text, UTF-8")
    parser.add_argument("--windows", type=int, default=2, help="how many (default 2)")
    parser.add_argument("--length", type=int, default=128, help="tokens in each (default 128)")
    parser.add_argument("--threads", type=int, default=0, help="of a session (default 0: one per core)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="all figures; a picture beside it, as .svg")
    add_common_options(parser)
    return run(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
