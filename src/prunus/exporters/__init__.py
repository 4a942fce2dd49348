"""Cut models on disk: a checkpoint folder, a `.pt2` program, a Hugging Face folder; and back to the original shapes."""

from prunus.exporters.config_instance import as_pretrained
from prunus.exporters.config_terms import config_terms
from prunus.exporters.config_widths import config_widths
from prunus.exporters.exporter import EXPORTERS, Exporter
from prunus.exporters.formats import load, save
from prunus.exporters.huggingface import NeedsPrunusWarning, save_pretrained, update_config_
from prunus.exporters.pack import packed_size
from prunus.exporters.provenance import origins
from prunus.exporters.undo import undo

__all__ = [
    "EXPORTERS",
    "Exporter",
    "NeedsPrunusWarning",
    "as_pretrained",
    "config_terms",
    "config_widths",
    "load",
    "origins",
    "packed_size",
    "save",
    "save_pretrained",
    "undo",
    "update_config_",
]
