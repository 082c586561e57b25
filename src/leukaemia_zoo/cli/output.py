"""What the command line prints: lines, tables and bars, for people and not for programs."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from leukaemia_zoo.common.limits import UNCERTAIN, VerdictLimits
from leukaemia_zoo.common.text import printable
from leukaemia_zoo.zoo.registry import ARCHITECTURES, checkout_file, packaged_file, weights

if TYPE_CHECKING:
    from leukaemia_zoo.batch.run import Outcome
    from leukaemia_zoo.prediction.results import CellTally, Prediction, SubjectSummary
    from leukaemia_zoo.zoo.registry import ModelConfig, ModelInfo, WeightSpec


def path_width(paths: Sequence[Path]) -> int:
    """Columns that the paths take, at most 60."""
    return min(60, max(len(printable(str(path))) for path in paths))


def heading(paths: Sequence[Path], config: ModelConfig) -> str:
    """The line above the rows of a prediction table; with columns for verdict and OOD score where there are limits."""
    class_names = config.class_names
    titles = [f"{'p_' + name:>7}" for name in class_names]
    titles += [] if config.verdict_limits is None else [f"{'verdict':<{_verdict_width(class_names)}}"]
    titles += [] if config.ood_limit is None else [f"{'ood':>5}"]
    columns = "  ".join(titles)
    return f"{'path':<{path_width(paths)}}  {'subject':<8}  {'label':<{_label_width(class_names)}}  {columns}"


def row(prediction: Prediction, width: int, class_names: tuple[str, ...]) -> str:
    """One prediction, with its path cut on the left to `width` columns."""
    path = printable(prediction.path)
    path = path if len(path) <= width else "…" + path[1 - width :]
    start = f"{path:<{width}}  {printable(prediction.subject or '-'):<8}  "
    if prediction.probabilities is None:
        return f"{start}{'-':<{_label_width(class_names)}}  not read"
    columns = [f"{p:{max(len(n) + 2, 7)}.3f}" for n, p in zip(class_names, prediction.probabilities, strict=True)]
    if prediction.verdict is not None:
        columns.append(f"{prediction.verdict:<{_verdict_width(class_names)}}")
    if prediction.unfamiliar is not None:
        columns.append(f"{prediction.ood_score:5.2f}{'  unfamiliar' if prediction.unfamiliar else ''}")
    return f"{start}{prediction.label:<{_label_width(class_names)}}  {'  '.join(columns)}".rstrip()


def _label_width(class_names: tuple[str, ...]) -> int:
    return max(6, *map(len, class_names))


def _verdict_width(class_names: tuple[str, ...]) -> int:
    return max(len(UNCERTAIN), *map(len, class_names))


def summary(
    model: str,
    tally: CellTally | Outcome,
    limits: VerdictLimits | None,
    miss_rate: float | None,
    *,
    skipped: int = 0,
    summaries: Sequence[SubjectSummary] = (),
    what: str = "file",
) -> Iterator[str]:
    """What was found in each subject, where any is known, and in all files or cells."""
    if summaries:
        names = summaries[0].class_names
        limited = any(each.uncertain is not None for each in summaries)
        scored = any(each.unfamiliar is not None for each in summaries)
        columns = [*("n_" + name for name in names), *("mean p_" + name for name in names)]
        columns += [UNCERTAIN] if limited else []
        columns += ["unfamiliar"] if scored else []
        columns += ["verdict"]
        widths = [max(len(column), 7) for column in columns]
        subjects = [printable(each.subject) for each in summaries]
        first = max(7, *map(len, subjects))
        titles = "  ".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
        yield f"\n{'subject':<{first}}  {'cells':>6}  {titles}"
        for each, subject in zip(summaries, subjects, strict=True):
            values = [*map(str, each.counts), *(f"{p:.3f}" for p in each.mean_probabilities)]
            values += [str(each.uncertain)] if limited else []
            values += [str(each.unfamiliar)] if scored else []
            values += [each.label]
            cells = "  ".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
            yield f"{subject:<{first}}  {each.cells:6d}  {cells}"
    parts = [f"{count} {name}" for name, count in tally.counts.items()]
    parts += [f"{tally.failed} not read"] if tally.failed else []
    yield f"\n{_count(tally.cells, what)} by {model}: {', '.join(parts)}."
    if summaries:
        yield "The mean over a subject's cells is a summary, not the probability that a person is ill."
    if skipped:
        yield f"Passed over in the folders: {_count(skipped, 'file')} without the suffix of an image."
    if limits is not None:
        yield _uncertain(tally, limits, miss_rate)
    if model in weights():
        yield f"What is known of these numbers: leukaemia-zoo info {model}"


def _uncertain(tally: CellTally | Outcome, limits: VerdictLimits, miss_rate: float | None) -> str:
    """How many cells are left to a human, and at what miss rates."""
    rates = limits.default if miss_rate is None else (miss_rate,) * len(limits.class_names)
    allowed = ", ".join(f"{name} {rate:g}" for name, rate in zip(limits.class_names, rates, strict=True))
    verb = "is" if tally.uncertain == 1 else "are"
    return (
        f"{tally.uncertain:,} of {_count(_judged(tally), 'cell')} {verb} uncertain, for a human to judge: two or "
        f"more classes are not ruled out (miss rate: {allowed})."
    )


def unfamiliar(tally: CellTally | Outcome, limit: float) -> str:
    """The warning about images that do not look like the training cells."""
    verb, whose = ("does", "its verdict") if tally.unfamiliar == 1 else ("do", "their verdicts")
    return (
        f"{tally.unfamiliar:,} of {_count(_judged(tally), 'image')} {verb} not look like the cells this weight was "
        f"trained on (OOD score above {limit:.2f}): do not rely on {whose}."
    )


def _judged(tally: CellTally | Outcome) -> int:
    return tally.cells - tally.failed


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def models(infos: Sequence[ModelInfo]) -> Iterator[str]:
    """One line a weight or architecture, below a heading; nothing of none."""
    if not infos:
        return
    rows = [("architecture", "pretrained", "classes", "input", "parameters", "what it is")]
    for info in infos:
        spec, weight = info.architecture, info.weight
        height, width = weight.config.preprocessing.input_size if weight else spec.input_size
        names = weight.config.class_names if weight else ()
        classes = f"{len(names)} classes" if len(names) > 2 else ", ".join(names)
        parameters = f"{weight.parameters if weight else spec.parameters:,}"
        rows.append(
            (spec.name, weight.name if weight else "no weights", classes, f"{height}x{width}", parameters, spec.title)
        )
    columns = []
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        right = column[0] == "parameters"
        columns.append([cell.rjust(width) if right else cell.ljust(width) for cell in column])
    yield from ("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def input_reason(config: ModelConfig) -> str:
    """Why an input differs from the published one, as far as the numbers tell."""
    published = ARCHITECTURES[config.architecture].input_size
    fewer = math.prod(config.preprocessing.input_size) < math.prod(published)
    return "reduced, to train and predict without a GPU" if fewer else "enlarged"


def beginning(training: Mapping[str, Any]) -> str | None:
    """What a network began its training with; None where that is not known."""
    initial, seed = training.get("init"), training.get("seed")
    if isinstance(initial, Mapping):
        digest = initial.get("sha256")
        return f"{initial.get('source', 'not stated')}" + (f", sha256 {digest}" if digest else "")
    if initial != "random":
        return None
    return "random weights" + ("" if seed is None else f" from seed {seed}")


def _place(weight: WeightSpec) -> str:
    """Where the file of a weight of the zoo is to be had."""
    if packaged_file(weight).is_file():
        return "inside the package"
    told = "not inside the package"
    if checkout_file(weight).is_file():
        told += "; in the folder weights of this checkout"
    if weight.repo is not None:
        return f"{told}; on the Hub, {weight.repo} at {weight.revision}"
    return f"{told}; not on the Hub yet: name the file with --model FILE"


def about(info: ModelInfo) -> Iterator[str]:
    """What is known of one model."""
    from leukaemia_zoo.zoo.cards import classes_count_alike, names_people, taught_beside

    spec, weight = info.architecture, info.weight
    yield f"{info.name}: {spec.title}"
    yield f"  network    {spec.source}"
    if weight is None:
        yield f"  input      {spec.input_size[0]}x{spec.input_size[1]} RGB, 0 to 255; {spec.parameters:,} parameters"
        yield "  weights    none yet: load_model(..., weights=None) gives random ones"
        return
    config = weight.config
    height, width = config.preprocessing.input_size
    yield f"  input      {height}x{width} RGB, 0 to 255; {weight.parameters:,} parameters; head '{config.head}'"
    if (height, width) != spec.input_size:
        yield f"             published with {spec.input_size[0]}x{spec.input_size[1]}; {input_reason(config)}"
    yield f"  classes    {', '.join(config.class_names)}"
    yield f"  predicts   the average of {_count(config.views, 'view')} of a cell; temperature {config.temperature:.3f}"
    if (alike := classes_count_alike(weight)) is not None:
        shares = "that are equally frequent" if alike else "as frequent as in its training data"
        yield f"             for classes {shares}: where one is rarer, its probability is too high"
    if config.verdict_limits is not None:
        yield from _verdicts(config.verdict_limits, "subject" if names_people(weight) else "cell")
    if config.ood_limit is not None:
        yield f"  warns      of images with an OOD score above {config.ood_limit:.2f}"
    yield f"  file       {weight.file}, {weight.size:,} bytes, sha256 {weight.sha256}"
    yield f"             {_place(weight)}"
    yield f"  licence    {weight.licence}"
    for source in weight.data:
        yield f"  data       {source['name']} ({source['licence']}); {source['source']}"
    for part in ("train", "validation"):
        if part in weight.training:
            counts = weight.training[part]
            yield f"  {part:<10} " + ", ".join(
                f"{name}: {count['cells']:,} cells of {count['subjects'] or 'unknown'} subjects"
                for name, count in counts.items()
            )
    if initial := beginning(weight.training):
        yield f"  begun      {initial}"
    for told in taught_beside(weight.training):
        yield f"  {'':10} {told}"
    for name, measured in weight.metrics.items():
        yield f"  measured   {name}: {measured['on']}"
        for metric, value in measured["values"].items():
            known = value.get("low") is not None and value.get("high") is not None
            interval = f" ({value['low']:.3f} to {value['high']:.3f})" if known else " (no interval)"
            yield f"             {metric:<18} {value['value']:.3f}{interval}"
    yield f"  use        {weight.intended_use}"
    yield "  limits     on other people, stains or microscopes expect lower figures; any image gets one of the classes"
    yield f"  cite       {weight.citation}"


def _verdicts(limits: VerdictLimits, counted: str) -> Iterator[str]:
    """When a class is ruled out, and how often that leaves no verdict; of data without people, cells are counted."""
    start = "verdicts"
    for name, rate, limit, people in zip(limits.class_names, limits.default, limits.at(), limits.people, strict=True):
        rule = f"rule out {name} below {limit:.4f}" if limit else f"never rule out {name}"
        yield f"  {start:<9}  {rule}: miss rate {rate:g}, found on {_count(people, counted)}"
        start = ""
    rates = ", ".join(f"{rate:g}" for rate in limits.rates)
    yield f"             uncertain where two or more classes are left: {limits.referred:.1%} of the cells there"
    yield f"             miss rates to choose from: {rates}"


def print_lines(lines: Iterable[str], file: TextIO | None = None) -> None:
    """Print each line, on the standard output where nothing else is said."""
    for line in lines:
        print(line, file=file)


@contextlib.contextmanager
def without_notes_of_the_backend() -> Iterator[None]:
    """Keep the notes that TensorFlow prints on every start off the terminal, unless the import fails."""
    # Its C++ code writes to file descriptor 2, in recent releases even where TF_CPP_MIN_LOG_LEVEL is set. A user who
    # sets that variable sees what TensorFlow prints.
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr.flush()
    with tempfile.TemporaryFile() as notes:
        terminal = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def tell(line: str) -> None:
    """A line of progress on the standard error, above the progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def progress(items: Iterable[Any], total: int, unit: str, quiet: bool) -> Iterable[Any]:
    """A progress bar around items whose number is known."""
    if quiet or total < 2 or not sys.stderr.isatty():  # files and pipes never see the bar
        return items
    from tqdm import tqdm  # which takes longer to import than one cell to judge

    # A terminal sees the bar from half a second on.
    return tqdm(items, total=total, unit=f" {unit}", delay=0.5, file=sys.stderr)


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator[Any]:
    """A progress bar as a function of what is done and how much there is."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", delay=0.5, disable=None, file=sys.stderr) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield step
