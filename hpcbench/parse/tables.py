"""Sources to metrics: the rows of all files as pandas tables, beside the cases that they tell of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.metrics import TABLES, TEXT, Metrics
from hpcbench.parse.rows import Array, Rows
from hpcbench.parse.sources import Source, describe, storable
from hpcbench.run import Run

if TYPE_CHECKING:
    import pandas as pd


def assemble(sources: Sequence[Source], runs: Mapping[str, Run]) -> Metrics:
    """Make the tables of all sources; every row names its source and line."""
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
        }
        for source in sources
    ]
    rows["cases"] = _cases(sources, runs)
    parameters = list(dict.fromkeys(name for source in sources for name in source.parameters))
    said: dict[str, dict[str, Any]] = {}  # by benchmark; its cases were all rendered from one description
    for source in sources:
        if source.description:
            said.setdefault(source.description["benchmark"], dict(source.description))
    return Metrics(
        **{name: _table(name, rows[name], parameters) if name in rows else _stacked(name, sources) for name in TABLES},
        parameters=tuple(parameters),
        runs={name: run.record for name, run in runs.items()},
        headline={name: tuple(each["headline"]) for name, each in said.items()},
        baseline={name: each["baseline"] for name, each in said.items()},
        invariant={name: tuple(each["invariant"]) for name, each in said.items()},
    )


def _cases(sources: Sequence[Source], runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """List the cases: all that a run planned, with their true state, and those that foreign logs show."""
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
                "repeat": description["repeat"],
                "state": each.state,
                "reason": storable(each.reason),
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
                "repeat": source.repeat,
                "state": state,
                "reason": storable(reason),
                "parameters_from": source.parameters_from,
            })  # fmt: skip
    return rows


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


def _stacked(name: str, sources: Sequence[Source]) -> pd.DataFrame:
    """Put the rows of all sources one below another, each with its source and line."""
    import pandas as pd

    found = [(source.shown, source.tables[name]) for source in sources if name in source.tables]
    names = dict.fromkeys([*TABLES[name], *(column for _, rows in found for column in rows.columns)])
    columns: dict[str, Any] = {column: _column(column, [rows for _, rows in found]) for column in names}
    lengths = [len(rows) for _, rows in found]
    paths = pd.array([path for path, _ in found], dtype="string")
    columns["source"] = paths.take(np.repeat(np.arange(len(found)), lengths)) if found else paths
    columns["line"] = np.concatenate([rows.line for _, rows in found]) if found else np.empty(0, np.int64)
    return pd.DataFrame(columns)


def _column(name: str, parts: Sequence[Rows]) -> Any:
    import pandas as pd

    pieces: list[Array] = [rows[name] for rows in parts]
    whole = np.concatenate(pieces) if pieces else np.empty(0)
    if name in TEXT:
        texts = [None if value is None or value != value else str(value) for value in whole.tolist()]  # noqa: PLR0124
        return pd.array(texts, dtype="string").fillna("")
    if name == "warmup":
        return np.array([value == 1 for value in whole.tolist()], dtype=bool)
    if whole.dtype == object:
        return pd.to_numeric(pd.Series(whole, dtype=object), errors="coerce").to_numpy(dtype=float)
    return whole
