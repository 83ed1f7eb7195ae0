"""The fit recovers known rates, keeps expected rates without data, and predicts held-out families."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fit_latency
from benchmarks.latency_rates import Row, fit
from benchmarks.latency_rows import Published, family_of, published
from bpudeploy.predict.march import Term, march_model, read_model

TRUE = {Term.COMPUTE: 0.5, Term.WEIGHTS: 0.1, Term.LAYOUT: 0.05, Term.OUTPUT: 2.0}
EXPECTED = {Term.COMPUTE: 0.3, Term.WEIGHTS: 0.2, Term.LAYOUT: 0.02, Term.OUTPUT: 3.0, Term.CPU_BYTES: 1.0}
DATA = Path(__file__).parents[3] / "shared" / "data" / "published_latency_train.csv"
data = pytest.mark.skipif(not DATA.is_file(), reason=f"there is no {DATA}")


def synthetic(noise: float = 0.0, count: int = 60) -> list[Row]:
    numbers = np.random.default_rng(3)
    rows = []
    for i in range(count):
        amounts = {t: float(numbers.lognormal(0, 1)) for t in TRUE}
        ms = sum(TRUE[t] * a for t, a in amounts.items()) * float(np.exp(noise * numbers.standard_normal()))
        rows.append(Row(f"m{i}", f"family {i % 6}", ms, amounts))
    return rows


def test_known_rates_come_back() -> None:
    found = fit(synthetic(), EXPECTED)
    for term, rate in TRUE.items():
        assert found.rates[term] == pytest.approx(rate, rel=0.02)
    assert max(u.error for u in found.held_out) < 0.02


def test_known_rates_come_back_through_noise_and_wrong_rows() -> None:
    rows = synthetic(noise=0.1)
    rows[7] = Row("typo", "family 1", 10 * rows[7].published_ms, rows[7].amounts)
    found = fit(rows, EXPECTED)
    for term, rate in TRUE.items():
        assert found.rates[term] == pytest.approx(rate, rel=0.25)
    assert sum(u.covered for u in found.held_out) >= 0.8 * len(rows)


def test_what_no_row_tells_stays_as_expected_and_is_marked_unknown() -> None:
    found = fit(synthetic(), EXPECTED)
    assert found.rates[Term.CPU_BYTES] == pytest.approx(EXPECTED[Term.CPU_BYTES])
    assert found.spread[Term.CPU_BYTES] == pytest.approx(1.0)
    assert found.spread[Term.COMPUTE] < 0.1


def test_no_rate_falls_below_a_third_of_what_is_expected() -> None:
    rows = [Row(r.model, r.family, r.published_ms, {**r.amounts, Term.CPU_BYTES: 1.0}) for r in synthetic()]
    found = fit(rows, EXPECTED)
    assert found.rates[Term.CPU_BYTES] >= EXPECTED[Term.CPU_BYTES] / 3 * (1 - 1e-9)


def test_a_family_is_predicted_by_a_fit_that_never_saw_it() -> None:
    rows = synthetic()
    odd = [Row("odd", "odd family", 5 * r.published_ms, r.amounts) for r in rows[:3]]
    found = fit([*rows, *odd], EXPECTED)
    for u in found.held_out[-3:]:
        assert u.predicted_ms == pytest.approx(u.row.published_ms / 5, rel=0.02)
        assert not u.covered
    (family,) = [f for f in found.families() if f.family == "odd family"]
    assert family.rows == 3 and family.covered == 0 and family.median == pytest.approx(0.8, abs=0.01)


@data
def test_the_committed_models_are_what_the_committed_counts_and_the_published_figures_give() -> None:
    rows, _ = published(DATA)
    found, unseen = fit_latency.models(rows, fit_latency.read_counts())
    for model in found:
        kept = read_model(fit_latency.MARCHES / f"{model.march}.yaml")
        assert kept == march_model(model.march)
        assert kept.families == model.families and kept.basis == model.basis
        assert kept.rates == pytest.approx(model.rates, rel=2e-3)
        assert kept.spread == pytest.approx(model.spread, rel=2e-2, abs=1e-3)
    every = [u.error for mine in unseen.values() for u in mine]
    assert float(np.median(every)) <= fit_latency.AIM


@data
def test_the_error_table_of_the_docs_is_the_one_that_the_fit_prints() -> None:
    rows, _ = published(DATA)
    _, unseen = fit_latency.models(rows, fit_latency.read_counts())
    page = Path(__file__).parents[2] / "docs" / "explanation" / "latency-model.md"
    assert fit_latency.table(unseen) in page.read_text()


def test_a_network_is_counted_as_the_committed_counts_say() -> None:
    row = Published("RDK X3", "ResNet18", "classification", 224, 1.0)
    counts = fit_latency.count([row])
    (key,) = counts
    assert counts[key] == pytest.approx(fit_latency.read_counts()[key])


def test_without_the_data_the_command_says_so_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fit_latency", "no/such.csv"])
    assert fit_latency.main() == 0
    assert "skipped: there is no no/such.csv" in capsys.readouterr().err


def test_no_published_figure_is_in_the_committed_counts() -> None:
    for amounts in fit_latency.read_counts().values():
        assert set(amounts) == set(Term)


def test_a_published_name_has_one_family_and_the_counts_hold_no_other() -> None:
    for key in fit_latency.read_counts():
        assert family_of(key.split(" ")[2]) is not None
    assert family_of("EfficientFormerv2_s0") == "EfficientFormerV2" and family_of("RepGhost") == "RepGhost"
    assert family_of("YOLO26n-Seg") is None and family_of("VargConvNet") is None
