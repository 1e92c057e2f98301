"""The main process of a scenario: `play.py ORDER`, where ORDER is JSON (see `theatre.py`).

Its modules are imported by the workers under their plain names.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from typing import TYPE_CHECKING, Any

import hardships

if TYPE_CHECKING:
    from collections.abc import Callable


def _acts() -> dict[str, Callable[..., None]]:
    import acts_of_ends  # noqa: PLC0415 - after hardships that come before all else
    import acts_of_pools  # noqa: PLC0415
    import acts_of_sharing  # noqa: PLC0415
    import acts_under_hardship  # noqa: PLC0415
    import soaks  # noqa: PLC0415

    modules = (acts_of_ends, acts_of_pools, acts_of_sharing, acts_under_hardship, soaks)
    return {name: act for module in modules for name, act in vars(module).items()}


def main() -> None:
    """Play one act and write down what came of it."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    # A shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hardships.begin(order["hardship"])
    import part  # noqa: PLC0415 - after hardships that come before all else

    this = part.Part(order["subject"], random.Random(order["seed"]))
    if order["measures"]:
        this.settle_in()
    this.step("the act")
    _acts()[order["act"]](this, **order["arguments"])
    if order["measures"]:
        this.settle_up()
    this.step("the end")
    this.report()


if __name__ == "__main__":
    main()
