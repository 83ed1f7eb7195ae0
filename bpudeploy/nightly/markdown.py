"""A night as Markdown for a pull request: the verdict first, all names escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bpudeploy.digest import short
from bpudeploy.nightly.formatting import (
    format_before_after,
    format_change,
    format_figure,
    format_time,
    job_verdict,
    night_verdict,
)
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import FindingOutcome, JobResult, MetricFinding, Night
from bpudeploy.results.drawing import plural

MAX_CHARACTERS = 65_536
"""GitHub's limit for a comment."""
_REGRESSION_BYTES, _COMMAND_BYTES, _JOB_BYTES, _NOTE_BYTES = 22_000, 12_000, 16_000, 10_000
"""Limits of the parts, together below ``MAX_CHARACTERS``."""
_MAX_CHANGED = 4
_MAX_NAME, _MAX_PROSE, _MAX_COMMAND = 100, 300, 1_000
_SIGNS = {"bad": "❌", "odd": "⚠️"}
_NOT_PLAIN = re.compile(r"[`|\\]")
_MARKUP = re.compile(r"""[!"#$&*:<>?@\[\\\]^_`{|}~]|(?<=www)\.""", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


def to_markdown(night: Night) -> str:
    """Return the night in GitHub's Markdown, truncated with a notice to the limit of a comment.

    Names and messages are code spans or escaped: they cannot break a table, contain HTML, or notify anybody.
    """
    regressions = night.regressions
    parts = [f"## {_sign(night)} {night_verdict(night)}", _head(night)]
    if regressions:
        rows = [_regression(job, finding) for job, finding in regressions]
        head = "| job | metric | before → now | change | since, UTC | what changed |\n|---|---|---|---|---|---|"
        parts.append(_fitted(rows, _REGRESSION_BYTES, "regressions", head))
    parts.append(f"<details><summary>All {plural(len(night.jobs), 'job')}, and how to reproduce</summary>")
    if regressions:
        units = [_commands(job, finding) for job, finding in regressions]
        parts.append(_fitted(units, _COMMAND_BYTES, "regressions", "### Reproduce\n"))
    head = "| job | verdict | board | release | p50 | p99 | top-1 | size |\n|---|---|---|---|---|---|---|---|"
    parts.append("### Jobs\n\n" + _fitted([_row(job) for job in night.jobs], _JOB_BYTES, "jobs", head))
    notes = list(_notes(night))
    if notes:
        parts.append(_fitted(notes, _NOTE_BYTES, "notes", "### Not measured or judged\n"))
    return "\n\n".join([*parts, "</details>"]) + "\n"


def _sign(night: Night) -> str:
    tones = {job_verdict(job).tone for job in night.jobs}
    if night.ended is None or "good" not in tones:
        tones.add("odd")
    return next((sign for tone, sign in _SIGNS.items() if tone in tones), "✅")


def _head(night: Night) -> str:
    until = f"to {format_time(night.ended)}" if night.ended is not None else "(running or interrupted)"
    commit = f", commit {_code(short(night.commit))}" if night.commit is not None else ""
    times = f"from {format_time(night.began)} {until} UTC"
    return f"Suite {_code(night.suite)}, {times}{commit}; exit code {int(night.exit_code)}."


def _regression(job: JobResult, finding: MetricFinding) -> str:
    lines = [_prose(line) for line in finding.changed[:_MAX_CHANGED]]
    if len(finding.changed) > _MAX_CHANGED:
        lines.append(f"and {len(finding.changed) - _MAX_CHANGED} more")
    since = format_time(finding.since) if finding.since is not None else "unknown"
    if finding.last_good is not None:
        since += f"<br>last good {format_time(finding.last_good)}"
    cells = [
        _code(job.job),
        finding.title,
        format_before_after(job, finding),
        format_change(finding),
        since,
        "<br>".join(lines) or "nothing known",
    ]
    return f"| {' | '.join(cells)} |"


def _commands(job: JobResult, finding: MetricFinding) -> str:
    how = "; ".join(part for part in (finding.how, *finding.because) if part)
    title = f"{_code(job.job)}, {finding.title}: {_prose(how)}"
    commands = [_clean(command) for command in finding.reproduce]
    if not commands or any(len(command) > _MAX_COMMAND for command in commands):
        return f"{title}. The commands are in the report.\n" if commands else f"{title}.\n"
    fence = "`" * max(3, 1 + max(len(run) for run in re.findall("`*", " ".join(commands))))
    return "\n".join([f"{title}\n", f"{fence}sh", *commands, fence, ""])


def _row(job: JobResult) -> str:
    verdict = job_verdict(job)
    caveats = f"<br>{_prose(', '.join(job.caveats))}" if job.caveats else ""
    cells = [
        _code(job.job),
        f"{verdict.mark} {verdict}{caveats}",
        _code(job.board) if job.board else "",
        _code(short(job.release)) if job.release else "",
        *(format_figure(job, metric) for metric in (Metric.P50, Metric.P99, Metric.TOP1, Metric.SIZE)),
    ]
    return f"| {' | '.join(cells)} |"


def _notes(night: Night) -> Iterator[str]:
    """Yield what was not measured or has no verdict, excluded boards, and faults."""
    for job in night.jobs:
        if job.why:
            yield f"- {_code(job.job)}: {job.state}: {_prose(job.why)}"
        for finding in job.findings:
            if finding.outcome is FindingOutcome.CANNOT_TELL:
                why = _prose("; ".join(finding.because) or finding.how)
                yield f"- {_code(job.job)}: {finding.title}: cannot tell: {why}"
    for board, why in night.quarantine.items():
        yield f"- board {_code(board)} is in quarantine: {_prose(why)}"
    for job in night.jobs:
        for fault in job.faults:
            yield f"- board {_code(fault.board)} failed at {format_time(fault.at)} UTC: {_prose(fault.said)}"


def _fitted(units: Sequence[str], room: int, what: str, head: str) -> str:
    """Return as many units as fit into ``room`` bytes, and how many are omitted."""
    kept: list[str] = []
    for unit in units:
        room -= len(unit.encode("utf-8", "replace")) + 1
        if room < 0:
            break
        kept.append(unit)
    cut = len(units) - len(kept)
    notice = [f"\n{cut} of {len(units)} {what} are omitted here; all are in the report."] if cut else []
    return "\n".join([head, *kept, *notice])


def _clean(text: str, most: int | None = None) -> str:
    """Return a text on one line without control characters, truncated to ``most``."""
    found = " ".join(_CONTROL.sub(" ", text).split())
    return found if most is None or len(found) <= most else f"{found[: most - 1]}…"


def _code(text: str) -> str:
    """Return a name as a code span, without markup or mentions."""
    found = _clean(text, _MAX_NAME)
    if not found:
        return "unknown"
    return f"<code>{_entities(found, '[!-/:-@[-`{-~]')}</code>" if _NOT_PLAIN.search(found) else f"`{found}`"


def _prose(text: str) -> str:
    """Return a text escaped, without markup, links or mentions."""
    return _entities(_clean(text, _MAX_PROSE).replace("@", "@\u200b").replace("#", "#\u200b"), _MARKUP)


def _entities(text: str, those: str | re.Pattern[str]) -> str:
    return re.sub(those, lambda found: f"&#{ord(found[0])};", text)
