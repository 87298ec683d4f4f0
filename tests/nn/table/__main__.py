"""``python -m tests.nn.table [--all] [NAME...]``: print the parity table."""

from __future__ import annotations

import sys

from tests.nn.table import names, table


def main() -> None:
    """Print the rows of the names given, or of all."""
    arguments = sys.argv[1:]
    most = None if "--all" in arguments else table.FEW
    wanted = [name.replace("F.", "nn.functional.", 1) if name.startswith("F.") else name for name in arguments if name != "--all"]
    for line in table.lines(table.make(name, most) for name in wanted or names.public()):
        print(line, flush=True)


main()
