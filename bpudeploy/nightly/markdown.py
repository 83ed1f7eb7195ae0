"""A night as Markdown for a pull request: the verdict first, and no name in it becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bpudeploy.digest import short
from bpudeploy.nightly.metrics import Metric
from bpudeploy.nightly.night import Finding, JobResult, Night, Outcome
from bpudeploy.nightly.words import change_of, clock, counted, figure_of, standing_of, step_of, verdict_of

MOST = 65_536
"""Characters that GitHub takes as one comment."""
_OF_REGRESSIONS, _OF_COMMANDS, _OF_JOBS, _OF_THE_REST = 22_000, 12_000, 16_000, 10_000
"""Bytes that each part gets: together below ``MOST``, whatever the names are."""
_CHANGED = 4
_NAME, _WORDS, _COMMAND = 100, 300, 1_000
_SIGNS = {"bad": "❌", "odd": "⚠️"}
_NOT_PLAIN = re.compile(r"[`|\\]")
_MARKUP = re.compile(r"""[!"#$&*:<>?@\[\\\]^_`{|}~]|(?<=www)\.""", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


def to_markdown(night: Night) -> str:
    """Return the night in GitHub's Markdown, below the length that a comment may have; what is cut says so.

    Names and messages are code spans or escaped: they break no table, are no HTML, and notify nobody.
    """
    worse = night.regressions
    parts = [f"## {_sign(night)} {verdict_of(night)}", _head(night)]
    if worse:
        rows = [_regression(job, finding) for job, finding in worse]
        head = "| job | metric | before → now | change | since, UTC | what changed |\n|---|---|---|---|---|---|"
        parts.append(_fitted(rows, _OF_REGRESSIONS, "regressions", head))
    parts.append(f"<details><summary>All {counted(len(night.jobs), 'job')}, and how to see it again</summary>")
    if worse:
        units = [_commands(job, finding) for job, finding in worse]
        parts.append(_fitted(units, _OF_COMMANDS, "regressions", "### See it again\n"))
    head = "| job | verdict | board | release | p50 | p99 | top-1 | size |\n|---|---|---|---|---|---|---|---|"
    parts.append("### Jobs\n\n" + _fitted([_row(job) for job in night.jobs], _OF_JOBS, "jobs", head))
    rest = list(_rest(night))
    if rest:
        parts.append(_fitted(rest, _OF_THE_REST, "notes", "### What is missing, and why\n"))
    return "\n\n".join([*parts, "</details>"]) + "\n"


def _sign(night: Night) -> str:
    tones = {standing_of(job).tone for job in night.jobs}
    if night.ended is None or "good" not in tones:
        tones.add("odd")
    return next((sign for tone, sign in _SIGNS.items() if tone in tones), "✅")


def _head(night: Night) -> str:
    until = f"to {clock(night.ended)}" if night.ended is not None else "and is not over, or was cut off"
    commit = f", commit {_code(short(night.commit))}" if night.commit is not None else ""
    return (
        f"Suite {_code(night.suite)}, from {clock(night.began)} {until} UTC{commit}; exit code {int(night.exit_code)}."
    )


def _regression(job: JobResult, finding: Finding) -> str:
    lines = [_prose(line) for line in finding.changed[:_CHANGED]]
    if len(finding.changed) > _CHANGED:
        lines.append(f"and {len(finding.changed) - _CHANGED} more")
    since = clock(finding.since) if finding.since is not None else "not known"
    if finding.last_good is not None:
        since += f"<br>last good {clock(finding.last_good)}"
    cells = [
        _code(job.job),
        f"{finding.metric.words} against its {finding.against}",
        step_of(job, finding),
        change_of(finding),
        since,
        "<br>".join(lines) or "nothing that is known",
    ]
    return f"| {' | '.join(cells)} |"


def _commands(job: JobResult, finding: Finding) -> str:
    how = "; ".join(part for part in (finding.how, *finding.because) if part)
    title = f"{_code(job.job)}, {finding.metric.words} against its {finding.against}: {_prose(how)}"
    commands = [_clean(command) for command in finding.reproduce]
    if not commands or any(len(command) > _COMMAND for command in commands):
        return f"{title}. The commands are in the report.\n" if commands else f"{title}.\n"
    fence = "`" * max(3, 1 + max(len(run) for run in re.findall("`*", " ".join(commands))))
    return "\n".join([f"{title}\n", f"{fence}sh", *commands, fence, ""])


def _row(job: JobResult) -> str:
    standing = standing_of(job)
    verdict = f"{standing.mark} {standing}"
    if job.caveats:
        verdict += f"<br>{_prose(', '.join(job.caveats))}"
    cells = [
        _code(job.job),
        verdict,
        _code(job.board) if job.board else "",
        _code(short(job.release)) if job.release else "",
        *(figure_of(job, metric) for metric in (Metric.P50, Metric.P99, Metric.TOP1, Metric.SIZE)),
    ]
    return f"| {' | '.join(cells)} |"


def _rest(night: Night) -> Iterator[str]:
    """Yield what was not measured or not told, and which boards were left out."""
    for job in night.jobs:
        if job.why:
            yield f"- {_code(job.job)}: {job.state}: {_prose(job.why)}"
        for finding in job.findings:
            if finding.outcome is Outcome.CANNOT_TELL:
                what = f"{finding.metric.words} against its {finding.against}"
                yield f"- {_code(job.job)}: {what}: cannot tell: {_prose('; '.join(finding.because) or finding.how)}"
    for board, why in night.quarantine.items():
        yield f"- board {_code(board)} is in quarantine: {_prose(why)}"
    for job in night.jobs:
        for fault in job.faults:
            yield f"- board {_code(fault.board)} failed at {clock(fault.at)} UTC: {_prose(fault.said)}"


def _fitted(units: Sequence[str], room: int, what: str, head: str) -> str:
    """Return as many of the units as there is room for, and how many there are beside."""
    kept: list[str] = []
    for unit in units:
        room -= len(unit.encode("utf-8", "replace")) + 1
        if room < 0:
            break
        kept.append(unit)
    cut = len(units) - len(kept)
    words = f"\n{cut} of {len(units)} {what} are cut here: this text has a limit. All are in the report." if cut else ""
    return "\n".join([head, *kept]) + words


def _clean(text: str, most: int | None = None) -> str:
    """Return a text on one line, without control characters."""
    found = " ".join(_CONTROL.sub(" ", text).split())
    return found if most is None or len(found) <= most else f"{found[: most - 1]}…"


def _code(text: str) -> str:
    """Return a name as a code span: nothing in it is markup, and nobody is mentioned."""
    found = _clean(text, _NAME)
    if not found:
        return "not known"
    return f"<code>{_entities(found, '[!-/:-@[-`{-~]')}</code>" if _NOT_PLAIN.search(found) else f"`{found}`"


def _prose(text: str) -> str:
    """Return words whose every mark is a character: no markup, no link, and nobody is mentioned."""
    return _entities(_clean(text, _WORDS).replace("@", "@\u200b").replace("#", "#\u200b"), _MARKUP)


def _entities(text: str, those: str | re.Pattern[str]) -> str:
    return re.sub(those, lambda found: f"&#{ord(found[0])};", text)
