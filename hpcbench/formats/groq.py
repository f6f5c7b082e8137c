"""GroqFlow: the table that a proof point prints, of one model on the chip and on the host."""

from __future__ import annotations

from hpcbench.formats import PARAMETERS, Format, Line

_CELL = r" +(?:--|\d{1,12}\.\d\d) +"


def _row(source: str, *, weak: bool = False) -> tuple[Line, ...]:
    """Make the parts of one row, whose name is that of the device; of a row that is cut nothing is read."""

    def cell(name: str, unit: str, printed: str, column: int) -> Line:
        cells = [_CELL] * 4
        cells[column] = rf" +<value{printed and ' ' + printed}> +"
        return Line(
            "counters",
            rf"^[ \t]*\| +{source} +\| [^|]{{1,60}} \|{'[|]'.join(cells)}\|$",
            constants={"name": f"{source}_{name}", "unit": unit},
            weak=weak,
            loose=True,  # the host has no on-chip columns
            anchor=f"|  {source} ",
        )

    return (
        cell("end_to_end_latency", "s", "ms", 0),
        cell("end_to_end_inferences_per_second", "inferences/s", "", 1),
        cell("on_chip_latency", "s", "ms", 2),
        cell("on_chip_inferences_per_second", "inferences/s", "", 3),
        Line(  # other tasks have other scores, which are no percentages
            "evals",
            rf"^[ \t]*\| +{source} +\| +<value %>% +\|{'[|]'.join([_CELL] * 4)}\|$",
            constants={"task": "test", "metric": "accuracy", "subject": source},
            weak=weak,
            loose=True,
            anchor=f"|  {source} ",
        ),
    )


FORMATS = (
    Format(
        name="groqflow",
        kind="training",
        title="GroqFlow proof points",
        example="|  groq  |  78.12%  |           0.06          |    17000.50    |         0.05         |   21111.20  |",
        parts=(
            Line(PARAMETERS, r'^Building "(?P<model>[^"]{1,200})" *$', weak=True, loose=True),
            *_row("cpu", weak=True),
            *_row("groq"),
        ),
    ),
)
