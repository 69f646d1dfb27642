"""Run the command line as `python -m medllava`."""

from medllava.cli.app import main

if __name__ == "__main__":
    main()
