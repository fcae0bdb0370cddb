"""``python -m spnb``: see `spnb.ui.cli`."""

import sys

if __name__ == "__main__":
    try:
        from .ui.cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        print("spnb: interrupted", file=sys.stderr)
        sys.exit(130)
