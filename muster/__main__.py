"""Entry point of the command ``muster``."""

# pyinfra's connections are greenlets, so the standard library must be patched before anything
# else is imported.
from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

from muster.cli import run  # noqa: E402


def main() -> None:
    """Run the command and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
