"""Damaged and made-up files for everything of prunus that reads one: each is refused in one line or loads whole."""
