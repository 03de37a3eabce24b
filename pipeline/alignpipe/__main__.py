"""`python -m alignpipe`: the same as the console script, but for TAB completion."""

import sys

from alignpipe.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "alignpipe"
    sys.exit(main())
