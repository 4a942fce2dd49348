"""Results, plans and models in; tables, charts, inspections and self-contained HTML pages out."""

from prunus.report.html import render_report, write_report
from prunus.report.table import print_table

__all__ = ["print_table", "render_report", "write_report"]
