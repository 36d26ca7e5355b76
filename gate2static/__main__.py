"""`python -m gate2static` is the command line."""

from gate2static.cli import main

if __name__ == "__main__":
    main()
