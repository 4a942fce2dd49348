"""The ``Source:`` lines of docstrings, and the references in them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_YEAR = re.compile(r"\b((?:19|20)\d\d)\b")
_REFERENCE = re.compile(r'^(?:[^"]*?: )?(?P<authors>[^":]+?), "(?P<title>[^"]+)"(?:, (?P<venue>.+))?$')
_SMALL_WORDS = {"a", "an", "the", "on", "to", "of", "what", "do", "and", "for", "with"}


@dataclass(frozen=True, slots=True)
class Reference:
    """One paper.

    Attributes:
        authors: as in the docstring, ``Frantar & Alistarh`` or ``Li et al.``
        title: in full or as far as it identifies the paper.
        arxiv: its arXiv number, or empty.
        venue: another venue with the year, or empty.
    """

    authors: str
    title: str
    arxiv: str = ""
    venue: str = ""

    def __str__(self) -> str:
        place = f"arXiv:{self.arxiv}" if self.arxiv else self.venue
        return f'{self.authors}, "{self.title}", {place}.'

    @property
    def year(self) -> str:
        """The year of the arXiv number or of the venue; empty without both."""
        if self.arxiv:
            return f"20{self.arxiv[:2]}"
        found = _YEAR.findall(self.venue)
        return str(found[-1]) if found else ""

    @property
    def key(self) -> str:
        """Surname, year and first long word of the title: ``li2016pruning``."""
        surname = re.split(r" et al\.?| and |, | & ", self.authors)[0].split()[-1]
        words = [word for word in re.findall(r"[^\W\d_]+", self.title.lower()) if word not in _SMALL_WORDS]
        plain = unicodedata.normalize("NFKD", f"{surname.lower()}{self.year}{words[0] if words else ''}")
        return plain.encode("ascii", "ignore").decode()

    def bibtex(self) -> str:
        """Return a BibTeX entry.

        Example:
            >>> print(Reference("Li et al.", "Pruning Filters for Efficient ConvNets", "1608.08710").bibtex())
            @misc{li2016pruning,
              author = {Li and others},
              title = {{Pruning Filters for Efficient ConvNets}},
              year = {2016},
              eprint = {1608.08710},
              archivePrefix = {arXiv}
            }
        """
        names = re.sub(r",? et al\.?$", " and others", self.authors).replace(" & ", " and ").replace(", ", " and ")
        fields = {"author": names, "title": f"{{{self.title}}}", "year": self.year}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        else:
            fields["howpublished"] = self.venue
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
        return f"@misc{{{self.key},\n{body}\n}}"


def source_text(docstring: str | None) -> str:
    """Return the text after ``Source:`` in a docstring in one line; empty if there is none.

    Example:
        >>> source_text("Do it.\\n\\n    Source: Li et al.,\\n    arXiv:1608.08710.\\n\\n    Args:")
        'Li et al., arXiv:1608.08710.'
    """
    end = r"\n[ \t]*\n|\n[ \t]*[A-Z][a-z]+:\s*$|\n[ \t]*[A-Z][a-z]+: |\Z"
    found = re.search(rf"^[ \t]*Source: (.+?)(?={end})", docstring or "", flags=re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def references_in(source: str) -> tuple[Reference, ...]:
    """Return the papers that a source names: ``Authors, "Title", arXiv:…``, separated by semicolons.

    A text before a colon or in brackets describes the use of a paper; ``own`` names none.

    Example:
        >>> [str(r) for r in references_in('own; the idea: Lee et al., "SNIP", arXiv:1810.02340 (gates).')]
        ['Lee et al., "SNIP", arXiv:1810.02340.']
    """
    found = []
    # A semicolon inside quotation marks or brackets does not separate.
    for part in re.split(r';\s+(?=(?:[^"]*"[^"]*")*[^"]*$)(?![^(]*\))', source):
        match = _REFERENCE.match(part.strip().rstrip("."))
        if match is None:
            continue
        venue = match["venue"] or ""
        number = _ARXIV.search(venue)
        plain = re.sub(r"\s*\(.*?\)", "", _ARXIV.sub("", venue)).strip(" .,")
        found.append(Reference(match["authors"], match["title"], number[1] if number else "", plain))
    return tuple(found)
