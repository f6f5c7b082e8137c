"""Sources to cases: which logs belong together, and with which parameters, where hpcbench did not launch them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from hpcbench.formats import known
from hpcbench.metrics import RESERVED
from hpcbench.parse.files import sha256
from hpcbench.parse.sources import PARAMETER, Source, fits, shown_path, storable_value

_LEAST = 1024  # bytes of a log that is the same as another only if it is a copy
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")
_KIND = re.compile(r"(?<=.)(?:[._-](?:log|txt|out|err|stdout|stderr|perf|time))+$")  # which log of a case a file is


def name_cases(sources: Sequence[Source], pattern: re.Pattern[str] | None) -> None:
    """Name the cases of logs that hpcbench did not launch: by a sidecar, `pattern`, what they say, or their paths.

    A folder is a case when it holds at most one log of each format; else each file is one, and files that differ only
    in their ending, or in a word like ``perf``, belong together.
    """
    _read_sidecars(sources)
    if pattern is not None:
        for source in sources:
            if source.parameters:
                continue
            for match in pattern.finditer(source.shown):
                found = {name: _typed(text) for name, text in match.groupdict().items() if text is not None}
                source.parameters |= found
            source.parameters_from = "label" if source.parameters else ""
    unlabelled = [source for source in sources if source.parameters_from != "label"]
    places = [source.shown.rpartition("/")[0] for source in unlabelled]
    kinds = [(place, kind) for place, source in zip(places, unlabelled, strict=True) for kind in _kinds(source)]
    by_folder = len(set(kinds)) == len(kinds) and (len(set(places)) > 1 or not kinds)
    alone = len(set(places)) == len(places)  # the name of the only log of a folder tells something too
    parts = places if by_folder and not alone else _stems(unlabelled)
    same = _name_by_what_differs(unlabelled, parts)
    names = {source.shown: part for source, part in zip(unlabelled, parts, strict=True)}
    cases: dict[str, list[Source]] = {}
    for source in sources:
        differing = {name: value for name, value in source.parameters.items() if name not in same}
        words = [f"{name}{value}" for name, value in differing.items() if name != "log"]
        words += [str(differing["log"])] if "log" in differing else []
        name = names.get(source.shown) or _stem(source.shown)
        cases.setdefault("-".join(words) or name.rstrip("/").rpartition("/")[2], []).append(source)
    for case, members in cases.items():
        _mark_copies(members)
        own = [source for source in members if not source.copy_of]
        for repeat, part in enumerate(_repeats(own), 1):
            for source in part:
                source.case, source.repeat = case if repeat == 1 else f"{case}-r{repeat}", repeat


def _name_by_what_differs(sources: Sequence[Source], parts: Sequence[str]) -> frozenset[str]:
    """Give sources the parameters that their logs say, and those in their paths that these do not explain.

    `parts` is the part of each path that names its case: what one log of a case says holds for the others. Returns the
    names of parameters that are the same everywhere.
    """
    said: dict[str, dict[str, Any]] = {}
    formats: dict[str, str] = {}
    for source, part in zip(sources, parts, strict=True):
        if source.said:
            said.setdefault(part, {}).update(source.said)
            formats.setdefault(part, source.formats[0] if source.formats else "")
    shared = _shared(said, formats)
    same = frozenset(name for name in shared if len({str(each[name]) for each in said.values() if name in each}) == 1)
    paths = _varying(parts)
    # what some log does not say would tell that log apart; where the paths say it too, they say it of all
    lacking = {name for name in shared if not all(name in said.get(part, ()) for part in parts)}
    lacking = {name for name in lacking if name in same or _said_by_paths(name, said, parts, paths)}
    shared, same = [name for name in shared if name not in lacking], same - lacking
    points = {part: tuple(str(each.get(name)) for name in shared) for part, each in said.items()}
    # a path that says again what its log says is no axis of its own: bs256 beside a batch of 256
    values: dict[str, dict[tuple[str, ...], set[str]]] = {}
    for part, path in zip(parts, paths, strict=True):
        for name, value in path.items():
            values.setdefault(name, {}).setdefault(points.get(part, ()), set()).add(str(value))
    differ = len(same) < len(shared)
    explained = {
        name
        for name, of_point in values.items()
        if differ and all(len(each) == 1 for each in of_point.values()) and not (name == "log" and _say_more(paths))
    }
    for source, part, path in zip(sources, parts, paths, strict=True):
        own = {name: said[part][name] for name in shared if name in said.get(part, ())}
        if source.parameters:  # a file beside the log comes before what the log says
            source.parameters = own | source.parameters
            continue
        rest = {name: value for name, value in path.items() if name not in own and (not own or name not in explained)}
        source.parameters |= own | rest
        source.parameters_from = " and ".join([*(["header"] if own else []), *(["path"] if rest else [])])
    return same


def _said_by_paths(
    name: str, said: Mapping[str, Mapping[str, Any]], parts: Sequence[str], paths: Sequence[Mapping[str, Any]]
) -> bool:
    """Tell whether some number in the paths changes one to one with what logs say under a name."""
    known = [
        (str(said[part][name]), path) for part, path in zip(parts, paths, strict=True) if name in said.get(part, ())
    ]
    axes = {axis for path in paths for axis in path} - {"log"}
    pairs = [{(value, str(path.get(axis))) for value, path in known} for axis in axes]
    return any(len({a for a, _ in each}) == len({b for _, b in each}) == len(each) for each in pairs)


def _say_more(paths: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether names differ in words, not only in numbers and single letters: they may be of different things."""
    return len({re.sub(r"\d+|(?<![A-Za-z])[A-Za-z](?![A-Za-z])", "", str(path.get("log", ""))) for path in paths}) > 1


def _shared(said: Mapping[str, Mapping[str, Any]], formats: Mapping[str, str]) -> list[str]:
    """Return the parameters that logs of every format say; one that was cut short may lack what others of its say."""
    counts: dict[str, Counter[str]] = {}
    for part, values in said.items():
        counts.setdefault(formats[part], Counter()).update(list(values))
    logs = Counter(formats[part] for part in said)
    usual = [[name for name, count in each.items() if 2 * count >= logs[form]] for form, each in counts.items()]
    return [name for name in usual[0] if all(name in names for names in usual)] if usual else []


def _mark_copies(sources: Sequence[Source]) -> None:
    """Mark the logs of a case that are another one: a file that was copied is no repeat of a run.

    It is one byte for byte, or in the speed of every step, as what `tee` kept beside what a scheduler kept. What is
    very short may be the same by chance.
    """
    alike: dict[tuple[int, int, int], list[Source]] = {}
    steps: dict[str, Source] = {}
    for source in sources:
        if source.measured and (original := steps.setdefault(source.measured, source)) is not source:
            source.copy_of = original.shown
        elif source.bytes >= _LEAST and source.shown == shown_path(source.path):
            alike.setdefault((source.bytes, source.lines, source.records), []).append(source)
    for several in alike.values():
        first: dict[str, Source] = {}
        for source in several if len(several) > 1 else ():
            original = first.setdefault(sha256(source.path), source)
            source.copy_of = "" if original is source else original.shown


def _read_sidecars(sources: Sequence[Source]) -> None:
    """Take the parameters of a case from a file beside its logs.

    For ``NAME.log`` that is ``NAME.params.yaml`` or ``.json``, for all logs of a folder ``params.yaml`` or ``.json``:
    names and plain values.
    """
    beside: dict[str, dict[str, dict[str, Any]]] = {}  # folder → stem of a log, or nothing for all → parameters
    for source in sources:
        folder, _, name = source.shown.rpartition("/")
        if folder not in beside:
            here = os.path.dirname(source.path)
            names = [each for each in _names(here) if each.endswith(("params.yaml", "params.json"))]
            beside[folder] = {
                each.rpartition("params.")[0].rstrip("."): _sidecar(Path(here, each)) for each in sorted(names)
            }
        if beside[folder] and (found := beside[folder].get(name.split(".")[0]) or beside[folder].get("")):
            source.parameters |= found
            source.parameters_from = "sidecar"


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []


def _sidecar(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > 1 << 20:
            return {}
        found = yaml.safe_load(file.read_bytes())  # JSON is YAML
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    plain = found.items() if isinstance(found, dict) else ()
    return {
        name: storable_value(value)
        for name, value in plain
        if isinstance(name, str) and PARAMETER.fullmatch(name) and name not in RESERVED
        and isinstance(value, str | int | float)
    }  # fmt: skip


def _stems(sources: Sequence[Source]) -> list[str]:
    """Return the stem of each path; where two logs of one format would have the same, the words stay that differ."""
    stems = [_stem(source.shown) for source in sources]
    kinds = Counter((stem, kind) for stem, source in zip(stems, sources, strict=True) for kind in _kinds(source))
    clash = {stem for (stem, _), count in kinds.items() if count > 1}
    whole: dict[str, set[str]] = {stem: set() for stem in clash}
    for source, stem in zip(sources, stems, strict=True):
        if stem in clash:
            whole[stem].add(_ENDING.sub("", source.shown))
    return [
        _ENDING.sub("", source.shown) if len(whole.get(stem, ())) > 1 else stem
        for source, stem in zip(sources, stems, strict=True)
    ]


def _stem(path: str) -> str:
    """Return a path without the ending of its name and the words that say which log of a case it is."""
    place, slash, name = path.rpartition("/")
    return place + slash + _KIND.sub("", _ENDING.sub("", name) or name)


def _repeats(sources: Sequence[Source]) -> list[list[Source]]:
    """Split files that have the same parameters into repeats: two logs of one format are not one case."""
    if len(sources) == 1:
        return [list(sources)]
    parts = [list(sources)]
    for by_file in (False, True):
        split: list[list[Source]] = []
        for part in parts:
            if max(Counter(kind for source in part for kind in _kinds(source)).values(), default=0) < 2:
                split.append(part)
                continue
            groups: dict[str, list[Source]] = {}
            for source in part:
                groups.setdefault(source.shown if by_file else source.shown.rpartition("/")[0], []).append(source)
            split += groups.values()
        parts = split
    return parts


def is_one_of_several(source: Source) -> bool:
    """Tell whether a log is of a kind of which a case leaves many files."""
    return not _several().isdisjoint(source.formats)


@lru_cache(maxsize=1)
def _several() -> frozenset[str]:
    return frozenset(name for name, each in known(()).items() if each.several)


def _kinds(source: Source) -> list[str]:
    """Return the formats of a log of which a case has but one file."""
    return [] if is_one_of_several(source) else source.formats


# a name and a number in a path: bs256, threads=8, lr_0.001, lr1e-4, 4gpus; in gpus4.1234567 the point is no decimal one
_PAIR = re.compile(
    r"(?<![A-Za-z\d])(?:([A-Za-z][A-Za-z_]*?)"
    r"(?:=(\d+(?:\.\d+)?(?:e-?\d+)?)|[_-]?(0\.\d+|\d+(?:\.\d{1,2}(?!\d))?(?:e-\d+)?))"
    r"|(\d+)([A-Za-z]{2,}))(?![A-Za-z\d])"
)
_NO_QUANTITY = re.compile(r"0\d+|\d{7,}")  # of a host, a day, a job
_JOB = re.compile(r"(?<![A-Za-z\d])\d{5,}(?:_\d+)?(?![A-Za-z\d])")  # what a scheduler numbers its jobs with
_INDEX = re.compile(r"\d{1,3}")
_REPEAT = re.compile(
    r"(?:(?<=[^A-Za-z])|^)(?:run|rep|repeat|trial|try|seed|job|jobid|slurm)[=_-]?\d+(?![A-Za-z\d])", re.IGNORECASE
)
# numbers that tell nothing of what was run
_NO_AXIS = frozenset({
    "epoch", "job", "jobid", "log", "out", "pid", "rank", "rep", "repeat", "run", "seed", "slurm", "stderr", "stdout",
    "trial", "try",
})  # fmt: skip


def _varying(stems: Sequence[str]) -> list[dict[str, Any]]:
    """Return the parts of each path that differ, by name: ``runs/bs64/threads8`` gives ``{"bs": 64, "threads": 8}``.

    What differs without a name and a number of its own is called ``log``.
    """
    if len(set(stems)) < 2:
        return [{} for _ in stems]
    start = os.path.commonprefix(stems).rpartition("/")[0]  # noqa: RUF071 - by letter, then whole folders
    rest = [stem[len(start) :].strip("/") for stem in stems]
    while len({each.rpartition("/")[2] for each in rest}) == 1:  # a/train, b/train
        rest = [each.rpartition("/")[0] for each in rest]
    pairs = [{name: (pair, value) for pair, name, value in _pairs(each)} for each in rest]
    counts = Counter(name for each in pairs for name in each)
    shared = [name for name, count in counts.items() if 2 * count > len(pairs)]  # a stray file takes no axis from all
    axes = [name for name in shared if len({each[name][1] for each in pairs if name in each}) > 1]
    found = [{name: _typed(each[name][1]) for name in axes if name in each} for each in pairs]
    others = []
    for text, each in zip(rest, pairs, strict=True):
        other = text
        for name in axes:
            other = other.replace(each[name][0], "", 1) if name in each else other
        others.append(_REPEAT.sub("", other) if axes else other)  # alone, run1 and run2 may be anything
    jobs = [number for other in others for number in _JOB.findall(other)]
    if axes and len(set(jobs)) == len(jobs):  # a number that comes again is no job's
        others = [_JOB.sub("", other) for other in others]
    others = [other.strip("/_-.= ") for other in others]
    if len(set(others)) > 1 and not _count_repeats(found, others):
        for parameters, other in zip(found, others, strict=True):
            if other or not parameters:
                parameters["log"] = _typed(other)
    return found


def _count_repeats(points: Sequence[Mapping[str, Any]], others: Sequence[str]) -> bool:
    """Tell whether what is left of paths only counts: 0, 1, 2 or 1, 2, 3 at every point."""
    alike = len(os.path.commonprefix(list(others)).rstrip("0123456789"))  # noqa: RUF071 - by letter
    left = [other[alike:].strip("/_-.= ") for other in others]
    if not all(points) or not all(_INDEX.fullmatch(other) for other in left):
        return False
    if re.search(r"(?:rank|node|host|proc|worker)[_-]?$", others[0][:alike], re.IGNORECASE):  # parts of one run
        return False
    numbers: dict[tuple[Any, ...], list[int]] = {}
    for point, other in zip(points, left, strict=True):
        numbers.setdefault(tuple(point.values()), []).append(int(other))
    return all(sorted(each) in ([*range(len(each))], [*range(1, len(each) + 1)]) for each in numbers.values())


def _pairs(text: str) -> list[tuple[str, str, str]]:
    """Return the pairs of name and number in a path: text, name, number; of the same name the first."""
    found: dict[str, tuple[str, str, str]] = {}
    for match in _PAIR.finditer(text):
        name, number = (match[1], match[2] or match[3]) if match[1] else (match[5], match[4])
        name = name.strip("_")
        if _NO_QUANTITY.fullmatch(number):
            continue
        if name and name not in RESERVED and name.lower().rpartition("_")[2] not in _NO_AXIS:
            found.setdefault(name, (match[0], name, number))
    return list(found.values())


def _typed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        # int() and float() also take 1_000, other scripts' digits, nan and infinity: in a path these are words
        return number if text.isascii() and "_" not in text and fits(number) else text
    return text
