"""Results for people: a table on the console, charts, and one self-contained HTML page."""

from prunus.report.html import render_report, write_report
from prunus.report.table import print_table

__all__ = ["print_table", "render_report", "write_report"]
