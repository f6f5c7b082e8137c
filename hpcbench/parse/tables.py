"""Sources to metrics: the rows of all files as pandas tables, beside the cases that they tell of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.formats import KINDS, Kind, all_formats
from hpcbench.metrics import COLUMNS, FATAL, TABLES, TEXT, Metrics
from hpcbench.parse.files import FILE
from hpcbench.parse.sources import Source, describe, storable
from hpcbench.parse.steady import mark
from hpcbench.rows import Array, Rows, joined
from hpcbench.run import Run

if TYPE_CHECKING:
    import pandas as pd


def assemble(
    logs: Sequence[Source], sources: Sequence[Source], tables: Mapping[str, Sequence[Rows]], runs: Mapping[str, Run]
) -> Metrics:
    """Make the tables of all sources; every row names its source and line.

    The column `FILE` of `tables` is the position of a row's source in `logs`; `sources` holds the same in the order in
    which they are shown.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    rows["sources"] = [
        {
            **source.parameters,
            "path": source.shown,
            "format": " ".join(source.formats),
            "bytes": source.bytes,
            "lines": source.lines,
            "records": source.records,
            "unread": source.unread,
            "sha256": source.sha256,
            "run": source.run,
            "case": source.case,
            "site": source.description.get("site", ""),
            "benchmark": source.description.get("benchmark", ""),
            "repeat": source.repeat,
            "parameters_from": source.parameters_from,
            "copy_of": source.copy_of,
        }
        for source in sources
    ]
    rows["cases"] = _cases(sources, runs)
    parameters = list(dict.fromkeys(name for source in sources for name in source.parameters))
    said: dict[str, dict[str, Any]] = {}  # by benchmark; its cases were all rendered from one description
    for source in sources:
        if source.description:
            said.setdefault(source.description["benchmark"], dict(source.description))
    shown = {id(source): position for position, source in enumerate(sources)}
    place = np.array([shown[id(source)] for source in logs], dtype=np.int64)
    stacked = {name: _stacked(name, tables[name], logs, place) for name in TABLES if name not in rows}
    steps = stacked["steps"]
    steps["steady"] = mark(steps, stacked["events"])
    steps["warmup"] = steps["warmup"] == 1  # known to `mark` as what a log says: yes, no or nothing
    _mark_failed(rows["cases"], sources, stacked["events"], steps)
    return Metrics(
        **{name: _table(name, each, parameters) for name, each in rows.items()},
        **stacked,
        parameters=tuple(parameters),
        runs={name: run.record for name, run in runs.items()},
        headline={name: tuple(each["headline"]) for name, each in said.items()},
        baseline={name: each["baseline"] for name, each in said.items()},
        invariant={name: tuple(each["invariant"]) for name, each in said.items()},
    )


def _cases(sources: Sequence[Source], runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """List the cases: all that a run planned, with their true state, and those that foreign logs show."""
    kinds: dict[tuple[str, str], Kind] = {}
    known = all_formats()
    for source in sources:
        for name in source.formats:
            if name in known:
                here = (source.run, source.case)
                kinds[here] = min(known[name].kind, kinds.get(here, "system"), key=KINDS.index)
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        for each in run.states(list(dict.fromkeys(run.cases))):
            description = describe(run.folder / each.case / "case.json")
            rows.append({
                **description["parameters"],
                "run": name,
                "case": each.case,
                "site": description["site"],
                "benchmark": description["benchmark"],
                "kind": kinds.get((name, each.case), ""),
                "repeat": description["repeat"],
                "state": each.state,
                "reason": storable(each.reason),
                "ran_on": "" if description["beside"] else storable(each.host),
                "started": each.started,
                "ended": each.ended,
                "parameters_from": "case.json",
            })  # fmt: skip
    seen = {(row["run"], row["case"]) for row in rows}
    for source in sources:
        if source.case and (source.run, source.case) not in seen:
            seen.add((source.run, source.case))
            state, reason = "", "no record tells how it ended" if source.description else "not launched by hpcbench"
            if source.folder is not None:  # without its run it still holds what its job wrote
                alone = Run(source.folder.parent, {"cases": [source.folder.name]}).states()[0]
                if alone.state != "planned":
                    state, reason = alone.state, alone.reason
            rows.append({
                **source.parameters,
                "run": source.run,
                "case": source.case,
                "site": source.description.get("site", ""),
                "benchmark": source.description.get("benchmark", ""),
                "kind": kinds.get((source.run, source.case), "system"),
                "repeat": source.repeat,
                "state": state,
                "reason": storable(reason),
                "parameters_from": source.parameters_from,
            })  # fmt: skip
    return rows


def _mark_failed(
    cases: list[dict[str, Any]], sources: Sequence[Source], events: pd.DataFrame, steps: pd.DataFrame
) -> None:
    """Give the cases that hpcbench did not launch a state where a log ends with a failure: no step comes after it."""
    last = steps.groupby("source")["line"].max()
    done = set(events.loc[events["kind"].isin(["completed", "finished"]), "source"])
    fatal = events[events["kind"].isin(FATAL) & ~events["source"].isin(done)]
    fatal = fatal[fatal["line"] > fatal["source"].map(last).fillna(0).to_numpy(dtype=float)]
    said = {
        each.source: f"{str(each.kind).replace('_', ' ')}: {each.message}" for each in fatal.itertuples(index=False)
    }
    reasons = {source.case: said[source.shown] for source in sources if source.shown in said and not source.run}
    for row in cases:
        if not row["run"] and not row["state"] and row["case"] in reasons:
            row["state"], row["reason"] = "failed", storable(reasons[row["case"]])


def _table(name: str, rows: list[dict[str, Any]], parameters: Sequence[str]) -> pd.DataFrame:
    """Make the table of sources or cases, with a column a parameter."""
    import pandas as pd

    columns = [*TABLES[name], *parameters]
    table = pd.DataFrame(rows, dtype=object)  # a whole number stays one, though others in its column are missing
    table = table.reindex(columns=[*columns, *(column for column in table.columns if column not in columns)])
    for column in table.columns:
        if column in parameters:
            table[column] = table[column].infer_objects() if table[column].notna().all() else table[column]
        elif column in TEXT:
            table[column] = table[column].astype("string").fillna("")
        else:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    return table


def _stacked(name: str, parts: Sequence[Rows], logs: Sequence[Source], place: Array) -> pd.DataFrame:
    """Put the rows of all sources one below another, in the order of the sources, each with its source and line."""
    import pandas as pd

    rows = joined(parts) if parts else Rows([], {FILE: np.empty(0, np.int64)})
    file = rows.columns.pop(FILE).astype(np.int64)
    order = np.lexsort((rows.line, place[file])) if len(file) else np.empty(0, np.int64)
    columns: dict[str, Any] = {}
    for column in dict.fromkeys([*TABLES[name], *rows.columns]):
        columns[column] = _column(column, rows[column][order])
    paths = pd.array([source.shown for source in logs], dtype="string")
    columns["source"] = paths.take(file[order])
    columns["line"] = rows.line[order]
    return pd.DataFrame(columns, copy=False)  # a column is nobody else's


def _column(name: str, values: Array) -> Any:
    import pandas as pd

    if name in TEXT:
        texts = [None if value is None or value != value else str(value) for value in values.tolist()]  # noqa: PLR0124
        return pd.array(texts, dtype="string").fillna("")
    if name == "warmup" and values.dtype == object:
        return np.array([value if isinstance(value, int | float) else np.nan for value in values.tolist()], dtype=float)
    if values.dtype != object:
        return values
    if name not in NUMBERS and any(isinstance(value, str) for value in values.tolist()):
        return pd.array([value if isinstance(value, str) else None for value in values.tolist()], dtype="string")
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(dtype=float)


# a log that prints a word where these columns have a number does not make them text
NUMBERS = frozenset({*COLUMNS, *(column for columns in TABLES.values() for column in columns)}) - TEXT
