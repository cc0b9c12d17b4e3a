"""`python -m geosr` is the command `geosr`."""

from geosr_cli.main import main

if __name__ == "__main__":
    main()
