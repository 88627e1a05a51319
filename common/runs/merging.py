"""Joining the results of two machines: what is whole is copied, and nothing that is there is replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from common.datasets.manifest import Manifest
from common.errors import UserError
from common.files import is_as_written, locked, read_record, replacing
from common.runs.outputs import forget_tables
from common.runs.records import LATER, Chosen, ControlMetrics, Cost, Metrics, Scores, TrainedModel
from common.runs.weights import WeightsFile

Record = TypeVar("Record")

KINDS = ("weights", "datasets", "configs", "models", "runs", "controls", "tuning")
"""The folders of results that are merged; tables and reports are made anew."""

MADE_SO = ("provenance", "wall_seconds", "peak_memory", "files", "trained", "members", "predictions")
"""The fields of scores that say how they came to be."""

NOT_RESULTS = re.compile(r"error\.json|.*\.error\.json|.*\.damaged.*|\..*\.tmp")
"""Files beside results that stay where they are."""


@dataclasses.dataclass
class Merged:
    """What a merge did.

    Attributes:
        copied: How many results of every kind were copied.
        there: How many were there already, the same.
        refused: What was not copied, and why, in sentences.
    """

    copied: Counter[str] = dataclasses.field(default_factory=Counter)
    there: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: list[str] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        """It, for people."""
        lines = [f"not copied: {sentence}" for sentence in self.refused]
        lines += [_counted("already there", self.there), _counted("copied", self.copied)]
        return "\n".join(lines)


def _counted(what: str, counts: Counter[str]) -> str:
    """Numbers of several kinds of results, in words."""
    return f"{what}: {', '.join(f'{counts[kind]} {kind}' for kind in KINDS if counts[kind]) or 'nothing'}"


def merge(source: Path, target: Path) -> Merged:
    """Copies results into a folder of results.

    Args:
        source: The folder that they lie in; it is only read.
        target: The folder that they are copied into.

    Raises:
        UserError: One is no folder of results, both are the same, or there is no room.
    """
    if not any((source / kind).is_dir() for kind in KINDS):
        raise UserError(f"{source} is no folder of results: name one with models/ or runs/, such as results")
    if target.exists() and source.resolve() == target.resolve():
        raise UserError(f"{source} and {target} are the same folder: name two")
    merger = _Merger(source, target)
    try:
        for kind, files in merger.steps():
            for path in files:
                merger.take(kind, path)
    finally:
        if merger.merged.copied:
            forget_tables(target)
    return merger.merged


class _Merger:
    """One merge, result by result."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target, self.merged = source, target, Merged()
        self.other_data: set[tuple[str, str]] = set()
        self.models: dict[Path, str | None] = {}
        self._merging: dict[str, Callable[[Path, Path], bool]] = {
            "weights": self._weights,
            "datasets": self._dataset,
            "configs": self._config,
            "models": self._model,
            "runs": self._run,
            "controls": self._control,
            "tuning": self._tuning,
        }

    def steps(self) -> Iterator[tuple[str, list[Path]]]:
        """All results by kind, each by the file that makes it one; what others depend on comes first."""
        for kind, pattern in (
            ("weights", "*.json"),
            ("datasets", "*.json"),
            ("configs", "*.json"),
            ("models", "*/*/*/*/model.pt"),
            ("runs", "*/*/*/*/metrics.json"),
            ("controls", "*/*/*/*/metrics.json"),
            ("tuning", "*/*/*/search.json"),
        ):
            paths = sorted((self.source / kind).glob(pattern))
            yield kind, [path for path in paths if not NOT_RESULTS.fullmatch(path.name)]

    def take(self, kind: str, path: Path) -> None:
        """Merges one result, or says why not."""
        target = self.target / path.relative_to(self.source)
        try:
            copied = self._merging[kind](path, target)
        except UserError as error:
            self.merged.refused.append(str(error))
        else:
            (self.merged.copied if copied else self.merged.there)[kind] += 1

    # Kinds of results: each returns whether something was copied, and raises a UserError if it must not be

    def _weights(self, path: Path, target: Path) -> bool:
        own, other = WeightsFile.read(path), _existing(target, WeightsFile.read)
        if other is None:
            _copy(path, target)
        elif own.sha256 != other.sha256:
            raise UserError(
                f"{path}: the two machines have different files of weights of the name {own.name}: rename "
                "one, in model_options too"
            )
        return other is None

    def _dataset(self, path: Path, target: Path) -> bool:
        own, other = Manifest.read(path), _existing(target, Manifest.read)
        if other and own.content_sha256 != other.content_sha256:
            self.other_data.add((own.dataset, own.content_sha256))
            raise UserError(
                f"{path}: {target} is of other images or labels under the same name: results of both do not "
                "compare"
            )
        panel = path.with_suffix(".panel.npz")
        copied = False
        wanted = (other or own).panel
        if wanted and panel.exists() and not target.with_suffix(".panel.npz").exists():
            with contextlib.suppress(UserError):  # it can be made again
                wanted.check(panel, "")
                _copy(panel, target.with_suffix(".panel.npz"))
                copied = True
        if other is None:
            _copy(path, target)
        return copied or other is None

    def _config(self, path: Path, target: Path) -> bool:
        if target.exists():
            return False
        _copy(path, target)
        return True

    def _model(self, path: Path, target: Path) -> bool:
        own, other = TrainedModel.read(path), _existing(target, TrainedModel.read)
        _check_place(path.parent, own.dataset, own.model, own.method, f"seed{own.seed}-{own.digest}")
        self._check_data(path, own.dataset, own.content_sha256)
        self.models[target] = (other or own).state_sha256
        if other is not None:
            if other.state_sha256 != own.state_sha256:
                raise _collision(path, target, "both machines have trained the model, with different ends")
            return False
        lock = target.parent / "state" / "lock"
        with locked(lock) if lock.exists() else contextlib.nullcontext():
            _copy_folder(path, target)
        return True

    def _run(self, path: Path, target: Path) -> bool:
        own, other = Metrics.read_file(path), _existing(target, Metrics.read_file)
        _check_place(path.parent, own.dataset, own.model, own.method, f"seed{own.seed}-{own.digest}")
        self._check_scores(path, own)
        for facts in filter(None, (own.trained, *own.members)):
            name = f"seed{own.seed}-{facts.digest}"
            model = self.target.joinpath(
                "models", own.dataset, own.model, str(own.trained_as), name, "model.pt"
            )
            if self._state(model) not in (None, facts.state_sha256):
                raise _collision(path, model, "the scores are of another model than lies there")
        copied = self._copy_scores(path, target, own, other)
        return self._costs(path.parent, target.parent, own) or copied

    def _control(self, path: Path, target: Path) -> bool:
        read = _reader(ControlMetrics)
        own, other = read(path), _existing(target, read)
        _check_place(path.parent, own.dataset, own.model, own.digest, own.control)
        self._check_scores(path, own)
        return self._copy_scores(path, target, own, other)

    def _tuning(self, path: Path, target: Path) -> bool:
        read = _reader(Chosen)
        own, other = read(path), _existing(target, read)
        if other is not None:
            if (own.values, own.miou, own.images) != (other.values, other.miou, other.images):
                raise _collision(path, target, "both machines have made the search, with different ends")
            return False
        _copy_folder(path, target)
        return True

    # What they share

    def _check_data(self, path: Path, dataset: str, content: str) -> None:
        """Refuses results of data that have the name of others in the target."""
        if (dataset, content) in self.other_data:
            raise UserError(f"{path.parent}: the other machine has other data under the name {dataset}")

    def _check_scores(self, path: Path, scores: Scores) -> None:
        """Refuses scores that are not whole, or of other data."""
        self._check_data(path, scores.dataset, scores.content_sha256)
        if not is_as_written(path):
            raise UserError(f"{path} is not as it was written (its checksum differs): evaluate again")
        for name, stored in scores.files.items():
            stored.check(path.with_name(name), "the result is not whole")

    def _copy_scores(self, path: Path, target: Path, own: Scores, other: Scores | None) -> bool:
        """Copies scores, or what the same ones lack in the target."""
        if other is None:
            _copy_folder(path, target, leave=re.compile(r"cost-\d+\.json"))
            return True
        if _differ(_scores(own), _scores(other)):
            raise _collision(path, target, "both machines have scored it, with different results")
        copied = False
        for name in own.files:
            if own.files[name] == other.files.get(name) and not target.with_name(name).exists():
                _copy(path.with_name(name), target.with_name(name))
                copied = True
        return copied

    def _costs(self, folder: Path, target: Path, scores: Metrics) -> bool:
        """Copies costs; those in the target stay, whichever machine measured them."""
        copied = False
        for path in sorted(folder.glob("cost-*.json")):
            if (target / path.name).exists():
                continue
            try:
                cost = read_record(path, Cost, "measure again")
            except UserError as error:
                self.merged.refused.append(str(error))
                continue
            if (cost.method, cost.seed, cost.digest) == (scores.method, scores.seed, scores.digest):
                _copy(path, target / path.name)
                copied = True
        return copied

    def _state(self, model: Path) -> str | None:
        """The SHA-256 of the weights of a model in the target; None if there is none that can be read."""
        if model not in self.models:
            with contextlib.suppress(UserError):
                self.models[model] = TrainedModel.read(model).state_sha256
        return self.models.setdefault(model, None)


def _existing(path: Path, read: Callable[[Path], Record]) -> Record | None:
    """A record in the target; None if there is none.

    Raises:
        UserError: There is one that cannot be read.
    """
    return read(path) if path.exists() else None


def _reader(kind: type[Record]) -> Callable[[Path], Record]:
    """What reads a record of a kind."""
    return lambda path: read_record(path, kind, "the result is not whole")


def _check_place(folder: Path, *names: str) -> None:
    """Refuses a result that lies in the folder of another."""
    if folder.parts[-4:] != names:
        raise UserError(f"{folder} has a result that does not belong there: it is of {'/'.join(names)}")


def _scores(record: Scores) -> dict[str, Any]:
    """What scores say, but for how they came to be."""
    names = {field.name for field in dataclasses.fields(record)}.difference(MADE_SO)
    content = {name: getattr(record, name) for name in names}  # `vars` lacks what its file lacks
    trained = getattr(record, "trained", None)
    return content | {"model": (record.model, trained and trained.state_sha256)}


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results differ in a score that both have."""
    missing = {key for key in LATER for scores in (one, other) if scores[key] in (None, {})}
    return any(one[key] != other[key] for key in {*one} - missing)


def _collision(path: Path, target: Path, reason: str) -> UserError:
    """What to say of two different results of one name."""
    return UserError(
        f"{path.parent}: {reason}; {target.parent} stays: delete one of the two to keep the other"
    )


def _copy_folder(path: Path, target: Path, leave: re.Pattern[str] = NOT_RESULTS) -> None:
    """Copies the folder of a result, without what a job goes on from.

    Args:
        path: The file that makes it a result; it comes last.
        target: What it is to be.
        leave: Other files that are left out.
    """
    for file in sorted(path.parent.rglob("*")):
        place = file.relative_to(path.parent)
        own = file.is_file() and file != path and place.parts[0] not in ("state", "counts")
        if own and not NOT_RESULTS.fullmatch(file.name) and not leave.fullmatch(file.name):
            _copy(file, target.parent / place)
    _copy(path, target)


def _copy(path: Path, target: Path) -> None:
    """Copies a file, whole or not at all.

    Raises:
        UserError: It cannot be read, or not be written.
    """
    try:
        with path.open("rb") as file, replacing(target, "wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
    except OSError as error:
        raise UserError(f"{path} cannot be copied: {error.strerror or error}") from None
