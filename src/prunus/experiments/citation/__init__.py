"""A recipe in; the papers of its algorithms out, read from the docstrings of the algorithms."""

from prunus.experiments.citation.reference import Reference, references_in, source_text
from prunus.experiments.citation.used import ROLES, Citations, Used, cite, member_sources

__all__ = ["ROLES", "Citations", "Reference", "Used", "cite", "member_sources", "references_in", "source_text"]
