"""The commands of `basereward`, one file each. A new command is a new file and one line here."""

from __future__ import annotations

from basereward.cli.command import Command
from basereward.cli.commands import (
    annotate,
    audit,
    check,
    convert,
    data,
    ensemble,
    eval,
    look,
    ls,
    resume,
    score,
    sweep,
    train,
)
from basereward.cli.commands.authoring import completion, new, schema
from basereward.cli.commands.construction import select, verify
from basereward.cli.commands.reporting import report, reproduce
from basereward.cli.commands.serving import export, import_published, serve

# In the order of `basereward --help`: write a recipe, look before training, train, use, and then the lists.
COMMANDS: dict[str, Command] = {
    "new": new.COMMAND,
    "check": check.COMMAND,
    "data": data.COMMAND,
    "audit": audit.COMMAND,
    "train": train.COMMAND,
    "sweep": sweep.COMMAND,
    "resume": resume.COMMAND,
    "score": score.COMMAND,
    "serve": serve.COMMAND,
    "export": export.COMMAND,
    "import": import_published.COMMAND,
    "eval": eval.COMMAND,
    "annotate": annotate.COMMAND,
    "select": select.COMMAND,
    "verify": verify.COMMAND,
    "ensemble": ensemble.COMMAND,
    "reproduce": reproduce.COMMAND,
    "report": report.COMMAND,
    "look": look.COMMAND,
    "convert": convert.COMMAND,
    "ls": ls.COMMAND,
    "schema": schema.COMMAND,
    "completion": completion.COMMAND,
}
