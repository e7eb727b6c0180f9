"""What a part says, as Markdown and as a page that stands alone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from benchmarks import markdown
from benchmarks.claims.plots import Figure, as_html


@dataclass(frozen=True, slots=True)
class Table:
    """Cells under their header.

    Attributes:
        caption: What is shown.
        header: A name a column.
        rows: The cells.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What one part found.

    Attributes:
        title: The claim, as a heading.
        verdict: What the numbers say of it, derived from them.
        tables: The numbers.
        figures: The numbers, drawn.
    """

    title: str
    verdict: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]

    def markdown(self) -> str:
        """The section without its figures."""
        tables = (f"{table.caption}\n\n{markdown.table(table.header, table.rows)}" for table in self.tables)
        return "\n\n".join((f"### {self.title}", f"**{self.verdict}**", *tables))


def write_page(title: str, summary: str, sections: Sequence[Section], path: Path) -> None:
    """Write all sections with their figures as one file, which needs no other."""
    from plotly.offline import get_plotlyjs

    page = Template(Path(__file__).with_name("page.html").read_text()).substitute(
        title=html.escape(title),
        summary=html.escape(summary),
        sections="\n".join(map(_section, sections)),
        plotly=get_plotlyjs(),
    )
    path.write_text(page)


def _section(section: Section) -> str:
    figures = "".join(
        f"<figure><figcaption>{html.escape(figure.title)}</figcaption>{as_html(figure)}</figure>"
        for figure in section.figures
    )
    tables = "".join(map(_table, section.tables))
    return (
        f"<section><h2>{html.escape(section.title)}</h2><p><strong>{html.escape(section.verdict)}</strong></p>"
        f"<div class='figures'>{figures}</div>{tables}</section>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th scope='col'>{html.escape(name)}</th>" for name in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    return (
        f"<p class='faint'>{html.escape(table.caption)}</p><div class='wide' tabindex='0' role='region' "
        f"aria-label='{html.escape(table.caption, quote=True)}'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )
