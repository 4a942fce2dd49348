"""Values, files and names in; checked arguments, records, registries and atomic files out; nothing knows networks."""
