"""Words of a command line in; a table, JSON or one error line, and an exit code out."""
