"""Measures one contender: a process that is told rows and answers with samples, a line each.

Called by `session.py` as `measure.py CONTENDER BACKEND`. A line in is
`{"row": NAME, "seconds": S}`, a line out is a sample; the first line out says what this process is.
"""

from __future__ import annotations

import json
import platform
import sys
import sysconfig

import contenders
import rivals
import works


def main() -> None:
    """Answer until there are no more questions."""
    name, backend = sys.argv[1:]
    contender = (rivals if name in rivals.NAMES else contenders).load(name, backend)
    hello = {
        "contender": name,
        "version": contender.version,
        "backend": backend,
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    }
    print(json.dumps(hello), flush=True)
    rows = {row.name: row for row in works.ROWS}
    for line in sys.stdin:
        asked = json.loads(line)
        sample = rows[asked["row"]].measure(contender, asked["seconds"])
        print(json.dumps(sample.as_json()), flush=True)


if __name__ == "__main__":
    main()
