"""Cut models on disk: a checkpoint folder, a `.pt2` program, a Hugging Face folder; and back to the original shapes."""

from prunus.export.config_widths import config_widths
from prunus.export.exporter import EXPORTERS, Exporter
from prunus.export.formats import load, save
from prunus.export.huggingface import as_pretrained, save_pretrained, update_config_
from prunus.export.pack import packed_size
from prunus.export.provenance import origins
from prunus.export.undo import undo

__all__ = [
    "EXPORTERS",
    "Exporter",
    "as_pretrained",
    "config_widths",
    "load",
    "origins",
    "packed_size",
    "save",
    "save_pretrained",
    "undo",
    "update_config_",
]
