"""Writes the findings of a check: a summary for people and a table for programs."""

from collections import defaultdict
from pathlib import Path

from speechssl.atomic import write_atomically
from speechssl.corpus.check.absent import absent_rows, describe_absent
from speechssl.corpus.check.checking import Report
from speechssl.corpus.check.findings import FINDINGS, Finding
from speechssl.text.fields import cells_as_line

__all__ = ["COLUMNS", "summarise", "write_table"]

COLUMNS = ("id", "finding", "severity", "value", "message", "manifest")
_NAMED = 3  # utterances named in the summary per kind of finding


def summarise(report: Report) -> list[str]:
    """Describe in lines how much was checked and, for each kind of finding, its count, meaning and first cases."""
    lines = []
    for number, (name, manifest) in enumerate(zip(report.names, report.manifests, strict=True)):
        bad = {finding.id for finding in report.findings if finding.manifest == number}
        hours = manifest.duration_s / 3600
        lines.append(f"{name}: {len(manifest.utterances)} utterances, {hours:.2f} h, {len(bad)} with findings")
    absent = absent_rows(report)
    gone = {(number, row.id) for number, rows in absent.items() for row in rows}
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.name].append(finding)
    for name, (severity, meaning) in FINDINGS.items():
        found = groups.get(name, [])
        if found:
            lines.append(f"{severity:7}  {name:14} {len(found):7}  {meaning}")
            if name == "unreadable":
                lines += [
                    f"             {describe_absent(report.manifests[number], report.names[number], rows)}"
                    for number, rows in absent.items()
                ]
                found = [finding for finding in found if (finding.manifest, finding.id) not in gone]
            lines += [f"             {finding.id}: {finding.message}" for finding in found[:_NAMED]]
    counts = {kind: sum(f.severity == kind for f in report.findings) for kind in ("error", "warning")}
    return [*lines, f"{counts['error']} errors, {counts['warning']} warnings"]


def write_table(path: Path, report: Report) -> None:
    """Write a tab-separated table with a header line and a row per finding, atomically."""
    lines = ["\t".join(COLUMNS)]
    for finding in report.findings:
        value = "" if finding.value is None else f"{finding.value:.6g}"
        cells = (finding.id, finding.name, finding.severity, value, finding.message, report.names[finding.manifest])
        lines.append(cells_as_line(cells))
    write_atomically(path, "\n".join(lines) + "\n")
