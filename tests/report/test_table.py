"""The report's table, as text, as Markdown and in the terminal."""

from dataclasses import replace

from gate2static.report.table import cells, header, markdown_table, rich_table


def test_cells_are_in_the_units_of_their_columns(content):
    gated = dict(zip(header(content), cells(content, content.rows[2]), strict=True))
    assert gated["latency / shared"] == "1.50×"
    assert gated["latency / separate"] == "0.75×"
    assert gated["MACs (M)"] == "62.00"
    assert gated["Δ_MTL (%) ↑"] == "+0.40"


def test_what_was_not_measured_is_a_dash(content):
    assert set(cells(content, content.rows[3])[1:]) == {"–"}


def test_markdown_has_one_line_a_row_and_equal_columns(content):
    lines = markdown_table(content).splitlines()
    assert len(lines) == 2 + len(content.rows)
    assert len({line.count("|") for line in lines}) == 1


def test_terminal_table_has_a_column_a_network(content):
    table = rich_table(content)
    assert [column.header for column in table.columns] == ["network", *(row.name for row in content.rows)]
    assert table.row_count == len(header(content)) - 1


def test_a_budget_adds_a_column(content):
    limited = replace(content.rows[2], budget="0.998 of 1.2 M MACs, λ 3")
    shown = replace(content, rows=(*content.rows[:2], limited))
    assert "cost / budget" not in header(content)
    assert header(shown)[-1] == "cost / budget"
    assert [cells(shown, row)[-1] for row in shown.rows] == ["–", "–", "0.998 of 1.2 M MACs, λ 3"]
