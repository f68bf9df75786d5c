"""The commands of `basereward`, one file each. A new command is a new file and one line here."""

from __future__ import annotations

from basereward.cli.command import Command
from basereward.cli.commands import (
    annotate,
    audit,
    check,
    completion,
    data,
    ensemble,
    eval,
    look,
    ls,
    report,
    resume,
    score,
    sweep,
    train,
)

# In the order of `basereward --help`: look before training, train, use, and then the lists.
COMMANDS: dict[str, Command] = {
    "check": check.COMMAND,
    "data": data.COMMAND,
    "audit": audit.COMMAND,
    "train": train.COMMAND,
    "sweep": sweep.COMMAND,
    "resume": resume.COMMAND,
    "score": score.COMMAND,
    "eval": eval.COMMAND,
    "annotate": annotate.COMMAND,
    "ensemble": ensemble.COMMAND,
    "report": report.COMMAND,
    "look": look.COMMAND,
    "ls": ls.COMMAND,
    "completion": completion.COMMAND,
}
