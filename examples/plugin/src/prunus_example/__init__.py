"""One plug-in of every kind for prunus; prunus finds them by the entry points in pyproject.toml."""
