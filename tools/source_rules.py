"""Rules of the source that no linter knows: a lint step of `make test`."""

from __future__ import annotations

import re
import sys

import places
import step_rules

# Loom can only check what goes through the switch; it never runs the binding.
ATOMICS = re.compile(r"\b(?:std|core)::sync::atomic\b")
SWITCH = "primitive.rs"


def strays() -> list[str]:
    """Return the places that name std's atomics and are not the loom switch."""
    return [
        f"{file.relative_to(places.REPOSITORY)}:{number}: std's atomics are named in {SWITCH} only"
        for file in sorted(places.REPOSITORY.glob("crates/core/src/**/*.rs"))
        if file.name != SWITCH
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if ATOMICS.search(line) and not line.lstrip().startswith("//")
    ]


def main() -> int:
    """Print each place where a rule is broken."""
    found = strays() + step_rules.broken()
    print("\n".join(found) or "no rule broken")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
