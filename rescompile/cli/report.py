"""`report`: everything about a network, or several, on one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rescompile.cli.command import command
from rescompile.cli.options import FeaturesOption, ForceOption, FormatOption, Passes, SetOption
from rescompile.cli.reporting import check_output, say
from rescompile.cli.specs import after_passes
from rescompile.diagnostics.errors import RescompileError, UsageError

if TYPE_CHECKING:
    from rescompile.report.facts import Subject
    from rescompile.report.results import ResultFile

#: The suffix of result files among the arguments.
RESULT = ".json"


@command
def report(
    files: Annotated[
        list[str], typer.Argument(metavar="SPEC|MODEL|RESULT.json...", help="Specs, models and result files.")
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="PATH", help="HTML file; - for standard output. Default: NAME.html.")
    ] = None,
    set: SetOption = None,
    features: FeaturesOption = None,
    force: ForceOption = False,
    format: FormatOption = "text",
    *,
    passes: Passes,
) -> None:  # fmt: skip
    """Write an interactive HTML page about one or more networks.

    Result files of bench and verify --json add times and errors. Without a spec, the networks are those of the result
    files.
    """
    from rescompile.files.atomic_write import File, write_stdout, write_text
    from rescompile.report import results

    if output not in (None, "-") and Path(output or "").suffix.lower() not in (".html", ".htm"):
        raise UsageError.of("E0802", f"-o {output or repr('')} must end in .html")
    specs = [name for name in files if not name.lower().endswith(RESULT)]
    found = [results.read(name) for name in files if name.lower().endswith(RESULT)]
    given = (_subject(spec, set, features, passes) for spec in specs)
    subjects = list(given if specs else _of_the_zoo(found, passes))
    results.check_all_used(found, [subject.network for subject in subjects])
    path = Path(output or f"{subjects[0].network.name}.html")
    if output != "-":
        check_output(path, force, files, "reads")
    page = _page(subjects, found)
    if output == "-":
        write_stdout([File("-", lambda: [page.encode()])])
        return
    write_text(page, path, force)
    say(f"{path}: {len(page.encode()) / 1024:.0f} KiB")


def _subject(spec: str, set: list[str] | None, features: str | None, passes: Mapping[str, Any]) -> Subject:
    from rescompile.explain.report import ABOUT
    from rescompile.report.facts import Subject

    loaded, network = after_passes(spec, set, features, passes)
    return Subject(network, {key: getattr(loaded, key) for key in ABOUT})


def _page(subjects: Sequence[Subject], found: Sequence[ResultFile]) -> str:
    """Return the page of one network, or that of several."""
    from rescompile.report.comparison import overview
    from rescompile.report.facts import facts
    from rescompile.report.page import comparison_page, network_page
    from rescompile.report.results import of_network

    measured = [of_network(subject.network, found) for subject in subjects]
    if len(subjects) == 1:
        return network_page(facts(subjects[0], measured[0]))
    return comparison_page(overview(subjects, measured))


def _of_the_zoo(found: Sequence[ResultFile], passes: dict[str, Any]) -> Iterator[Subject]:
    """Yield the networks of result files; without a spec, they must be in the zoo."""
    from rescompile.report.results import Verdicts

    names = dict.fromkeys(
        name for each in found for name in ([each.name] if isinstance(each, Verdicts) else sorted(each.names()))
    )
    if not names:
        raise UsageError.of("E0811", "the result files name no network", help="give its spec too")
    for name in names:
        try:
            yield _subject(name, None, None, passes)
        except RescompileError:
            message = f"the result files are of {name}, which is not a network of the zoo"
            raise UsageError.of("E0811", message, help="give its spec too") from None
