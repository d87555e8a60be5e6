"""Whole nights over a real S3 service and the web, with what goes wrong there."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import PROJECT

from audio_batch.errors import ErrorKind
from stores import nights, trials
from stores.identity_center import IdentityCenter
from stores.nights import Place
from stores.s3 import S3
from stores.servers import WebServer


@pytest.mark.parametrize(
    ("assets", "kills"),
    [(24, 1), pytest.param(500, 5, marks=pytest.mark.slow)],
    ids=["short", "500"],
)
def test_a_night_in_s3_that_everything_befalls(
    s3: S3, tmp_path: Path, assets: int, kills: int
) -> None:
    report = trials.befallen(s3, tmp_path, assets=assets, kills=kills)
    print(report.tell())
    assert report.wrong == []
    met = report.faults.keys() - {"hang"}  # what a kill is waited for in
    assert "expired" in met and len(met) >= (6 if assets > 100 else 3), met
    clean = report.requests["undisturbed"]
    assert clean["GET"] == assets
    assert clean["PUT"] <= 3 * assets + 3
    assert report.requests["once more"].total() < assets


@pytest.mark.parametrize(
    "engine",
    [("--engine", "null"), pytest.param(("--model", "demo"), marks=pytest.mark.slow)],
    ids=["lengths", "words"],
)
def test_where_recordings_lie_decides_no_word(
    s3: S3, web: WebServer, tmp_path: Path, engine: tuple[str, str]
) -> None:
    manifest = PROJECT / "examples" / "manifest.json"
    report = trials.same_everywhere(s3, web, tmp_path, manifest, (*engine, *trials.FORMATS), 3)
    print(report.tell())
    assert report.wrong == [], "one of the examples is broken on purpose: exit 3"
    assert report.requests["HTTP"]["GET"] == report.assets


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["1h", "0"])
def test_a_sign_in_that_ends_at_night_costs_no_asset(s3: S3, tmp_path: Path, wait: str) -> None:
    """Somebody signs in again while the run waits, or, where it does not, before the next one."""
    with IdentityCenter() as center:
        place = Place.with_tones(tmp_path, s3, 12)
        local = place.here("here", *trials.NULL)
        local.finish()
        place.home.more["AWS_ENDPOINT_URL_SSO"] = center.url
        place.home.sso()
        place.home.token("access-1", ends_in_s=7200)
        center.good = {"access-1"}
        night = place.in_s3("night", "--model", "null:300", "--outage-wait", wait, *trials.NULL)

        def withdrawn() -> bool:
            if "access-1" in center.good and nights.puts_of(s3, "out-night/tone") >= 6:
                center.good.clear()
                s3.trouble.expired.update(center.given)
            if not center.good and "lets nobody in" in night.said():
                sign_in()
            return False

        def sign_in() -> None:
            place.home.token("access-2", ends_in_s=7200)
            center.good = {"access-2"}

        if wait != "0":
            assert night.run(until=withdrawn) == 0
            assert {entry.attempts for entry in night.journal().values()} == {1}
            assert nights.differences(place.outputs(local), place.outputs(night)) == []
            return
        assert night.run(until=withdrawn) == 3
        assert 2 <= len([e for e in night.journal().values() if e.state == "done"]) < 12
        assert {e.error_kind for e in night.journal().values()} <= {
            None,
            ErrorKind.INPUT_FORBIDDEN,
            ErrorKind.OUTPUT,
        }
        sign_in()
        assert night.run() == 0
        assert nights.differences(place.outputs(local), place.outputs(night)) == []
