"""Tasks of lm-evaluation-harness (the extra `tasks`), with questions from its hub or from files, over any model of it.

A task is a name of the harness (hellaswag, arc_easy, piqa, groups such as mmlu), one of a file in `--tasks-dir`, or
NAME=FILE: the harness's task with the questions of a file, for machines that reach no hub. The file has an object for
each question, with the fields of the task's data set, all of one split.

The harness is imported where it is needed: it takes seconds.
"""

import importlib.util
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dualbinary.cli.options import option
from dualbinary.errors import DualBinaryError, InputError, OptionError
from dualbinary.evaluation.figures import TaskFigure

__all__ = ["TaskOptions", "check_tasks", "run_tasks", "task_words"]

KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
SPLIT = "test"  # what the questions of a file are called
FEW_SHOT_SEED = 1234  # of the examples, as in the harness's own command


@dataclass(frozen=True)
class TaskOptions:
    """Options of a command that runs tasks."""

    tasks: tuple[str, ...] = option(
        (),
        help="tasks, separated by commas; NAME=FILE takes the questions of NAME from a .jsonl, .json, .csv or .parquet",
        metavar="NAME[=FILE],...",
        group="tasks of lm-evaluation-harness",
    )
    tasks_dir: Path | None = option(None, help="folder of YAML files that define more tasks", metavar="DIR")
    limit: int | None = option(None, help="the first N questions of each task", minimum=1)
    shots: int | None = option(None, help="examples before each question", shown="default: the task's", minimum=0)

    def __post_init__(self) -> None:
        """Raise OptionError for what says how tasks run where there are none."""
        for name in ("tasks_dir", "limit", "shots"):
            if (value := getattr(self, name)) is not None and not self.tasks:
                raise OptionError(name, "no value without {tasks}", value, f"name {{tasks}}, or leave {{{name}}} out")

    @property
    def names(self) -> list[str]:
        """The tasks, each NAME or NAME=FILE."""
        return [name for word in self.tasks for name in word.split(",") if name]


def task_words(options: TaskOptions) -> list[str]:
    """The words of a command line that say `options`, for a child process."""
    words = ["--tasks", ",".join(options.names)]
    for name in ("tasks_dir", "limit", "shots"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def run_tasks(opened: Callable[[], Any], options: TaskOptions, *, progress: bool = True) -> tuple[TaskFigure, ...]:
    """Let the lm_eval.api.model.LM that `opened` makes answer the tasks, and return every metric of each.

    Raises InputError where a task is unknown, or its data are not to be had, and where the harness is not installed;
    DualBinaryError where it fails.
    """
    with _quiet(progress), TemporaryDirectory() as scratch:
        tasks = _load(options, Path(scratch))
        from lm_eval.evaluator import evaluate

        try:
            # Not simple_evaluate, which asks git, pip and the system about themselves, for half a minute and longer.
            found = evaluate(lm=opened(), task_dict=tasks, limit=options.limit, log_samples=False)
        except DualBinaryError:
            raise
        except Exception as error:  # code of the harness and of its tasks, which fail in ways of their own
            raise DualBinaryError(f"lm-evaluation-harness failed: {_reason(error)}") from error
    assert found is not None
    return tuple(_figures(found))


def check_tasks(options: TaskOptions) -> None:
    """Raise InputError where the harness is not installed, or a task or a file of `options` is not there.

    Seconds, to be spent before the minutes that measure texts.
    """
    _manager(options, _named(options))


def _named(options: TaskOptions) -> dict[str, Path | None]:
    """By the name of each task: the file of its questions, if one was given."""
    return dict(_parted(name) for name in options.names)


def _manager(options: TaskOptions, names: Collection[str]) -> Any:
    """lm_eval's TaskManager, which has all of `names`."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(f"--tasks takes lm-evaluation-harness; pip install 'dualbinary[tasks]' ({error})") from None
    if options.tasks_dir is not None and not options.tasks_dir.is_dir():
        raise InputError(f"--tasks-dir {options.tasks_dir}: not a directory")
    directory = options.tasks_dir
    manager = _opened(TaskManager, directory, defaults=False) if directory is not None else None
    if manager is None or not set(names) <= set(manager.all_tasks):
        manager = _opened(TaskManager, directory, defaults=True)
    for name in names:
        if name not in manager.all_tasks:
            raise InputError(f"--tasks {name}: lm-evaluation-harness has no such task; `lm_eval ls tasks` lists them")
    return manager


@cache
def _opened(manager: Any, directory: Path | None, *, defaults: bool) -> Any:
    """The manager of a folder's tasks, with `defaults` of all that the harness has: seconds, and once a process."""
    paths = None if directory is None else [str(directory)]
    return manager(include_path=paths, include_defaults=defaults)


def _load(options: TaskOptions, scratch: Path) -> Any:
    """The tasks with their data, as lm_eval's TaskManager gives them, each with its number of examples."""
    names = _named(options)
    manager = _manager(options, names)
    loaded: Any = {"tasks": {}, "groups": {}, "group_map": {}}
    for name, file in names.items():
        try:
            spec = name if file is None else _with_file(manager.task_index[name], name, file, scratch)
            found = manager.load([spec])
        except DualBinaryError:
            raise
        except Exception as error:  # of datasets, of the hub's client, of the task's own code
            help_ = f"; without a hub, give the questions as --tasks {name}=FILE" if file is None else ""
            raise InputError(f"--tasks {name}: its data cannot be read: {_reason(error)}{help_}") from error
        for key, values in found.items():
            loaded[key] |= values
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        shots = own if options.shots is None or own == 0 else options.shots  # 0 in a task's file: it has no examples
        task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=FEW_SHOT_SEED)
    return loaded


def _parted(word: str) -> tuple[str, Path | None]:
    name, sign, file = word.partition("=")
    if not sign:
        return name, None
    path = Path(file)
    if not path.is_file():
        raise InputError(f"--tasks {word}: {file}: no such file")
    if path.suffix not in KINDS:
        raise InputError(f"--tasks {word}: of no known kind; expected {', '.join(KINDS)}")
    return name, path


def _with_file(entry: Any, name: str, file: Path, scratch: Path) -> str:
    """A YAML file that defines the task with the questions of `file`, to be given in place of the name."""
    if entry.yaml_path is None or entry.kind.name != "TASK":
        raise InputError(f"--tasks {name}={file}: {name} is no single task; name one of its tasks")
    config: Mapping[str, Any] = {
        "include": str(entry.yaml_path),
        "task": name,
        "dataset_path": KINDS[file.suffix],
        "dataset_name": None,
        # Not in the user's cache, where a changed file could be taken for the one that was read before.
        "dataset_kwargs": {"data_files": {SPLIT: str(file.resolve())}, "cache_dir": str(scratch / "data")},
        "training_split": None,
        "validation_split": None,
        "test_split": SPLIT,
        "fewshot_split": SPLIT,
    }
    path = scratch / f"{name}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return str(path)


def _figures(found: Mapping[str, Any]) -> Iterator[TaskFigure]:
    """The metrics of all tasks and groups; keys are "acc,none": the metric and the filter of answers."""
    for task, values in found["results"].items():
        count = found.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in values.items():
            metric, sign, kept = key.partition(",")
            if not sign or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{kept}")
            label = metric if kept == "none" else f"{metric} ({kept})"
            stderr = float(error) if isinstance(error, (int, float)) else None
            yield TaskFigure(task, label, float(value), stderr, count, found.get("n-shot", {}).get(task))


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__


@contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Keep the harness's log to errors, and its bars away unless there is to be `progress`."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _without_bars(progress):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _without_bars(progress: bool) -> Iterator[None]:
    """Create no bars: the harness has no switch for those of its own, and some of its calls say disable=False."""
    if progress or importlib.util.find_spec("tqdm") is None:
        yield
        return
    from tqdm import tqdm

    original = tqdm.__init__

    def disabled(self: Any, *args: Any, **details: Any) -> None:
        original(self, *args, **{**details, "disable": True})

    tqdm.__init__ = disabled
    try:
        yield
    finally:
        tqdm.__init__ = original
