"""The process of one cell of a sweep: `python -m basereward.train.cell RECIPE.yaml RESULT.json SWEEP PID [RUN]`.

It ends when the sweep's process, number PID, ends, however that ended, so that no cell goes on unseen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from basereward.errors import BaseRewardError, explain
from basereward.recipe import recipe_from_yaml
from basereward.train.console import log_to_stderr
from basereward.train.files import write_atomic

EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 130


def main(recipe: str, answer: str, sweep: str, pid: str, resume: str = "") -> int:
    """Trains the recipe and writes what `train` returned, or the error, to the file `answer`."""
    threading.Thread(target=_end_with, args=(int(pid),), daemon=True).start()
    with log_to_stderr():
        from basereward.train.fit import train

        try:
            result = train(recipe_from_yaml(Path(recipe)), resume=resume or None, parent=sweep)
        except BaseRewardError as error:
            write_atomic(answer, json.dumps({"error": explain(error)}))
            return EXIT_MISTAKE
        except KeyboardInterrupt:  # the sweep has it too, and says so
            return EXIT_INTERRUPTED
    write_atomic(answer, json.dumps(result))
    return 0


def _end_with(parent: int) -> None:
    """Its number was handed over: asked for here, it could be that of another process, since the sweep is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
