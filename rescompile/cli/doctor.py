"""`doctor`: reports the hardware of this machine, and the targets and runtimes that work on it."""

from __future__ import annotations

from typing import Any

from rescompile.cli.command import command
from rescompile.cli.options import FormatOption, JsonOption
from rescompile.cli.reporting import columns, print_json
from rescompile.diagnostics.text_table import table_rows


@command
def doctor(as_json: JsonOption = False, format: FormatOption = "text") -> None:
    """Report which targets and runtimes work on this machine.

    Run a tiny network in each runtime, and list what is missing.
    """
    from rescompile.runtimes import RUNTIMES, device

    machine = device.describe()
    targets = _targets()
    if not as_json:
        for label, text in _machine(machine).items():
            _print(label, text)
        for target in targets:
            _print_state("target", target)
    listed = []
    for runtime in RUNTIMES.values():
        listed.append(_try(runtime))
        if not as_json:
            _print_state("runtime", listed[-1])
            for trial in listed[-1]["precisions"]:
                if trial["reason"]:
                    help = f" ({trial['help']})" if trial["help"] else ""
                    _print("", "", f"{trial['precision']}: {trial['reason']}{help}")
    if as_json:
        print_json({"machine": machine, "targets": targets, "runtimes": listed})


def _try(runtime: Any) -> dict[str, Any]:
    """Return the result of trying a runtime."""
    from rescompile.runtimes.runtime_check import trials

    reason = runtime.missing()
    tried = list(trials(runtime)) if reason is None else []
    works = any(trial.passed for trial in tried)
    return {
        "name": runtime.name,
        "summary": runtime.summary,
        "works": works,
        "reason": reason,
        "needs": runtime.how() if reason else None,
        "options": {option.name: option.help for option in runtime.options},
        "precisions": [
            {
                "precision": trial.precision, "works": trial.passed, "error": trial.error, "bound": trial.bound,
                "reason": trial.reason, "help": trial.help, "facts": trial.facts,
            }
            for trial in tried
        ],
    }  # fmt: skip


def _targets() -> list[dict[str, Any]]:
    """Return the targets of `build`, and whether they can be loaded."""
    from rescompile import backend

    found = []
    for name in backend.targets():
        problem = backend.missing(name)
        reason, needs = (problem.message, problem.help) if problem else (None, None)
        found.append({"name": name, "works": reason is None, "reason": reason, "needs": needs, "precisions": []})
    return found


def _print(*cells: str) -> None:
    """Print a row of the report: a label and a text, or a label, a name and a text, wrapped within the window of a terminal."""
    ((*lines,),) = table_rows([cells], "<", columns(), head=False, least=(12, 12)[: len(cells) - 1])
    print("\n".join(lines))


def _print_state(label: str, row: dict[str, Any]) -> None:
    """Print whether a target or a runtime works, and what it needs."""
    _print(label, row["name"], _state(row))
    if row["reason"] and row["needs"]:
        _print("", "", f"needs {row['needs']}")


def _state(row: dict[str, Any]) -> str:
    if row["reason"]:
        return f"missing  {row['reason']}"
    errors = [f"{trial['error']:.1e} in {trial['precision']}" for trial in row["precisions"] if trial["works"]]
    if not row["works"]:
        return "fails"
    return "works" + (f"    error {', '.join(errors)}" if errors else "")


def _machine(machine: dict[str, Any]) -> dict[str, str]:
    processor, memory = machine["processor"], machine["memory"]
    parts = [processor["name"], f"{processor['usable']} of {processor['threads']} threads"]
    parts += [f"{memory / 2**30:.1f} GiB"] if memory else []
    gpus = [f"{gpu['name']}, {gpu['memory.total']}, driver {gpu['driver_version']}" for gpu in machine["gpus"]]
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    return {
        "CPU": ", ".join(parts),
        "instructions": " ".join(processor["features"]) or "unknown",
        "GPU": "; ".join(gpus) or "none",
        "system": f"{machine['system']}, Python {machine['python']}",
        "libraries": libraries,
    }
