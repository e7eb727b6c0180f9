"""What ``alignray data check`` prints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.table import Table

from alignray.data.check import Facts, Problem

_SHOWN = 5
"""Columns that are named before the others are only counted."""


def print_facts(facts: Facts) -> None:
    """The facts as a table, then what is wrong, each with its remedy."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table.grid(padding=(0, 2))
    for label, value in _rows(facts).items():
        table.add_row(label, value)
    console.print(table, highlight=False, markup=False)
    console.print()
    if not facts.problems:
        console.print("nothing is wrong", style="green")
        return
    console.print("what is wrong", style="bold")
    for line in _lines(facts.problems):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _rows(facts: Facts) -> dict[str, str]:
    """The labels and the texts of the table."""
    schema, lengths = facts.schema, facts.lengths
    N, d = int(lengths.sum()), len(schema.features)
    order = "in order" if facts.in_order else "not in order"
    kind = "float32" if schema.bins is None else f"int8 in {schema.bins} bins"
    return {
        "eras": f"{len(facts.eras)}, from {facts.eras[0]} to {facts.eras[-1]}, {order}",
        "rows": f"{N}, {lengths.min()} to {lengths.max()} an era, median {np.median(lengths):g}",
        "features": f"{d}, {kind}",
        "factors": f"{len(schema.factors)}" + (", the features" if schema.factors == schema.features else ""),
        "ids": "none" if schema.id is None else f"column {schema.id!r}",
        "missing": "not kept in shards" if facts.missing is None else _missing(facts.missing, N),
        "constant": f"{len(facts.constant)} of {d} features"
        + (f"; within eras {_counted(facts.constant_eras.most_common(), 'eras')}" if facts.constant_eras else ""),
        **_target(facts),
        "digest": facts.digest or "none: loading would refuse the file, or sort it",
    }


def _missing(missing: dict[str, int], rows: int) -> str:
    total = sum(missing.values())
    if not total:
        return "none of the features and factors"
    worst = sorted(missing.items(), key=lambda item: -item[1])
    return f"{total} values: {_counted(worst, f'of {rows}')}"


def _counted(items: Iterable[tuple[str, int]], unit: str) -> str:
    """``a (3 eras), b (1 eras)``, and how many more."""
    texts = [f"{name} ({count} {unit})" for name, count in items]
    return ", ".join(texts[:_SHOWN]) + (f", … ({len(texts)} columns)" if len(texts) > _SHOWN else "")


def _target(facts: Facts) -> dict[str, str]:
    """How the targets are distributed."""
    known = facts.target[~np.isnan(facts.target)].astype(np.float64)
    unknown = f"{len(facts.target) - len(known)} unknown of {len(facts.target)}"
    if not known.size:
        return {"target": unknown}
    least, low, median, high, most = np.quantile(known, [0, 0.25, 0.5, 0.75, 1])
    distinct = len(np.unique(known))
    return {
        "target": f"{unknown}; {distinct} distinct values, mean {known.mean():.4g}, deviation {known.std():.4g}",
        "quantiles": f"{least:.4g} | {low:.4g} | {median:.4g} | {high:.4g} | {most:.4g}  (least, quartiles, most)",
    }


def _lines(problems: Iterable[Problem]) -> list[str]:
    """One line for each kind of problem; the first columns that have it are named."""
    kinds: dict[tuple[str, bool], list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.remedy, problem.refused].append(problem)
    lines = []
    for (remedy, refused), same in kinds.items():
        others = ", ".join(repr(problem.column) for problem in same[1:_SHOWN])
        more = f", … ({len(same)} columns)" if len(same) > _SHOWN else ""
        also = f" (likewise {others}{more})" if others else ""
        lines.append(f"{'refused' if refused else 'remark '}  column {same[0].column!r} {same[0].what}{also}; {remedy}")
    return lines
