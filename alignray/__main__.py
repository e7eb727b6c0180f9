"""``python -m alignray``: the command line."""

from alignray.cli import main

if __name__ == "__main__":
    main()
