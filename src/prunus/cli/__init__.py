"""The command line: reads options, calls the library, shows what came back."""
