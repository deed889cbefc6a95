"""Command line of every worker process of the enrichment benchmark, ours and the peers'."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class WorkerArguments:
    """Where one worker reads, keeps its state and finds its tower; `form` is one of the peer's forms."""

    bootstrap_servers: str
    group: str
    state: Path
    towers: Path
    version: str
    threads: int
    form: str

    def options(self) -> list[str]:
        """The command line that `parse_arguments` reads back."""
        return [f"--{one.name.replace('_', '-')}={getattr(self, one.name)}" for one in fields(self)]


def parse_arguments(forms: Sequence[str]) -> WorkerArguments:
    """The arguments of this process."""
    parser = argparse.ArgumentParser()
    kinds: Mapping[str, type] = {"state": Path, "towers": Path, "threads": int}
    for one in fields(WorkerArguments):
        choices = forms if one.name == "form" else None
        name = "--" + one.name.replace("_", "-")
        parser.add_argument(name, type=kinds.get(one.name, str), choices=choices, required=True)
    return WorkerArguments(**vars(parser.parse_args()))
