"""``python -m prunus``: the command line without its script."""

from prunus.cli.main import main

if __name__ == "__main__":
    main()
