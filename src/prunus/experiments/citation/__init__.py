"""The papers behind what a recipe uses, read from the docstrings of the algorithms themselves."""

from prunus.experiments.citation.reference import Reference, references_in, source_text
from prunus.experiments.citation.used import ROLES, Citations, Used, cite, member_sources

__all__ = ["ROLES", "Citations", "Reference", "Used", "cite", "member_sources", "references_in", "source_text"]
