"""What the monitor is given: figures worked out by hand, what went wrong with stages, whole snapshots only."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jiwer
import numpy as np
import pyarrow.parquet as pq
import pytest

from daily.aligned import aligned
from daily.day_progress import DayProgress, write_progress
from daily.lock import INHERITED, locked
from daily.registry import CHAMPION, MODEL, Version
from daily.snapshot import PREDICTIONS_SHOWN, VERSIONS_SHOWN, main, snapshot, write
from daily.store import PREDICTIONS, Store, write_table
from data.errors import UserError
from tests.conftest import REPOSITORY
from tests.made_store import Clip, add_day, day_of, drawn_clips, made_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return made_store(tmp_path / "store")


def warnings(store: Store, day: str) -> list[str]:
    return [warning["kind"] for warning in snapshot(store, day)[0]["warnings"]]


def test_the_figures_are_those_worked_out_by_hand(store: Store) -> None:
    right, wrong = Clip(), Clip(errors=2, hypothesis="uno due", voice="pc_diphone", recipe="standard")
    add_day(store, day_of(0), [right, right, wrong], version="1", is_heard=True)
    add_day(store, day_of(1), [right, Clip(errors=1, confidence=0.1), Clip(errors=4, confidence=None)], version="2")
    shown, _ = snapshot(store, day_of(1))
    assert [(row["day"], row["clips"], row["version"]) for row in shown["days"]] == [
        (day_of(0), 3, "1"),
        (day_of(1), 3, "2"),
    ]
    assert [(row["low"], row["high"]) for row in shown["days"]] == [(None, None)] * 2  # of three clips
    assert [row["wer"] for row in shown["days"]] == pytest.approx([100 * 2 / 12, 100 * 5 / 12])
    assert {row["name"]: row["wer"] for row in shown["voices"]} == pytest.approx(
        {"lp_diphone": 100 * 5 / 20, "pc_diphone": 100 * 2 / 4}
    )
    assert {row["name"]: row["clips"] for row in shown["recipes"]} == {"none": 5, "standard": 1}
    assert shown["confusion"] == {
        "trusted": {"right": 3, "wrong": 1},
        "doubted": {"right": 0, "wrong": 1},
        "unestimated": 1,
        "bound": 0.0,
    }
    assert [row["errors"] for row in shown["last"]] == [4, 1, 0, 2]
    assert len(shown["last"]) == PREDICTIONS_SHOWN
    earlier, _ = snapshot(store, day_of(0))
    assert (earlier["day"], earlier["clips"], earlier["drift"]) == (day_of(0), 3, None)


def test_a_store_without_a_day_has_a_snapshot_too(store: Store) -> None:
    content, files = snapshot(store, day_of(0))
    write(store.monitor, content, files)
    assert json.loads((store.monitor / "monitor.json").read_text()) == content
    assert (content["clip"], content["days"], content["warnings"], files) == (None, [], [], {})


@pytest.mark.parametrize(
    ("said", "heard", "kinds"),
    [
        ("Perché no?", "perché no?", ["spelling", "same"]),
        ("uno due tre", "uno tre", ["same", "deleted", "same"]),
        ("uno tre", "uno due tre", ["same", "inserted", "same"]),
        ("il cane dorme", "il pane dorme.", ["same", "substituted", "spelling"]),
        ("uno due", "", ["deleted", "deleted"]),
        ("– sì", "sì", ["deleted", "same"]),
    ],
)
def test_words_stand_beside_what_was_heard_of_them(said: str, heard: str, kinds: list[str]) -> None:
    pairs = aligned(said, heard)
    assert [kind for kind, _, _ in pairs] == kinds
    assert " ".join(word for _, word, _ in pairs if word) == said
    assert " ".join(word for _, _, word in pairs if word) == heard


def test_an_alignment_has_as_few_errors_as_jiwers() -> None:
    rng = np.random.default_rng(6)
    letters = np.array(list("abcd"))
    for _ in range(100):
        said, heard = (" ".join(rng.choice(letters, int(rng.integers(1, 9)))) for _ in range(2))
        found = jiwer.process_words(said, heard)
        errors = sum(kind != "same" for kind, _, _ in aligned(said, heard))
        assert errors == found.substitutions + found.deletions + found.insertions


def test_failed_stages_are_shown_until_they_are_made_good(store: Store) -> None:
    add_day(store, day_of(0), [Clip()])
    add_day(store, day_of(1), [Clip()], is_heard=False)
    failed = DayProgress(day_of(1)).note("features", "done").note("inference", "failed", error="out of memory")
    write_progress(store.folder, DayProgress(day_of(0)).note("training", "failed", error="no space left"))
    write_progress(store.folder, failed.note("training", "waiting", error="waits for inference"))
    shown, _ = snapshot(store, day_of(1))
    assert shown["stages"] == [
        {"day": day_of(1), "stage": "inference", "state": "failed", "error": "out of memory"},
        {"day": day_of(1), "stage": "training", "state": "waiting", "error": "waits for inference"},
        {"day": day_of(0), "stage": "training", "state": "failed", "error": "no space left"},
    ]
    assert shown["warnings"] == [
        {"kind": "no_predictions", "day": day_of(1)},
        {"kind": "failed_stage", "day": day_of(1), "stage": "inference", "error": "out of memory"},
        {"kind": "failed_stage", "day": day_of(0), "stage": "training", "error": "no space left"},
    ]
    write_progress(store.folder, failed.note("inference", "done").note("training", "done"))
    assert [row["day"] for row in snapshot(store, day_of(1))[0]["stages"]] == [day_of(0)]


def test_a_stage_whose_run_was_killed_is_told_and_snapshots_are_not(store: Store) -> None:
    add_day(store, day_of(0), [Clip()])
    add_day(store, day_of(1), [Clip()])
    killed = DayProgress(day_of(0)).note("training", "started").note("snapshot", "failed", error="no space left")
    write_progress(store.folder, killed)
    write_progress(store.folder, DayProgress(day_of(1)).note("training", "done").note("snapshot", "started"))
    shown, _ = snapshot(store, day_of(1))
    assert shown["stages"] == [{"day": day_of(0), "stage": "training", "state": "started", "error": ""}]
    assert shown["warnings"] == [{"kind": "started_stage", "day": day_of(0), "stage": "training", "error": ""}]


def test_stages_that_are_no_longer_tried_have_one_warning_together(store: Store) -> None:
    for number in range(9):
        add_day(store, day_of(number), [Clip()])
    for number in (0, 1):
        progress = DayProgress(day_of(number)).note("confidence", "failed", error="no").note("training", "failed")
        write_progress(store.folder, progress.note("features", "waiting"))
    shown, _ = snapshot(store, day_of(8))
    assert [(row["kind"], row["day"]) for row in shown["warnings"]] == [
        ("failed_stage", day_of(1)),
        ("failed_stage", day_of(1)),
        ("given_up", day_of(1)),
    ]
    assert shown["warnings"][-1]["count"] == 2
    assert len(shown["stages"]) == 6


def test_a_loop_that_stands_still_is_told(store: Store) -> None:
    """By the newest day that was heard, quiet or not; where none was, by the newest that a run came to."""
    assert warnings(store, day_of(9)) == []
    write_progress(store.folder, DayProgress(day_of(0)).note("features", "done"))
    assert warnings(store, day_of(1)) == []
    assert snapshot(store, day_of(2))[0]["warnings"] == [{"kind": "stale", "day": day_of(0)}]
    add_day(store, day_of(2), [Clip()])
    assert snapshot(store, day_of(30))[0]["warnings"] == [{"kind": "stale", "day": day_of(2)}]
    add_day(store, day_of(29), [])
    assert warnings(store, day_of(30)) == []


def test_a_clip_is_drawn_by_its_own_day(store: Store) -> None:
    """Its file is named by that day, and a browser may keep it."""
    add_day(store, day_of(0), drawn_clips(np.random.default_rng(7), 20, 0.2))
    drawn = {snapshot(store, day_of(number))[0]["clip"]["id"] for number in range(5)}
    assert len(drawn) == 1


def test_what_right_means_is_said_only_where_it_always_meant_that(store: Store) -> None:
    add_day(store, day_of(0), [Clip()])
    assert snapshot(store, day_of(0))[0]["confusion"]["bound"] == 0.0
    rows = pq.read_table(store.predictions(day_of(0))).to_pylist()
    for number, changed in ((1, {"bound": 0.2}), (2, {})):
        add_day(store, day_of(number), [Clip()], is_heard=False)
        row = {**rows[0], "day": day_of(number), "id": f"{day_of(number)}-000.flac", **changed}
        if not changed:  # as days were written before they had it
            del row["bound"]
        write_table(PREDICTIONS, store.predictions(day_of(number)), [row])
        assert snapshot(store, day_of(number))[0]["confusion"]["bound"] is None
    for number in (0, 1):
        store.predictions(day_of(number)).unlink()
    assert snapshot(store, day_of(2))[0]["confusion"]["bound"] is None


def test_a_registry_that_does_not_answer_does_not_lose_the_snapshot(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:secret@127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    add_day(store, day_of(0), [Clip()])
    content, _ = snapshot(store, day_of(0))
    (told,) = content["warnings"]
    assert (told["kind"], content["versions"], content["clips"]) == ("no_registry", [], 1)
    assert told["error"].startswith("the registry at http://127.0.0.1:9 cannot be read: ")
    assert "secret" not in told["error"]


def version(number: int, *aliases: str, note: str = "", **metrics: float) -> Version:
    made = day_of(number)
    return Version(MODEL, number, made, made, "run", aliases, metrics, note, None, "", dropped=False)


def test_the_registrys_versions_are_listed_the_newest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry itself: test_daily_registry.py."""
    listed = {MODEL: [version(1, CHAMPION, guard_wer=14.25), version(2, note="no better", test_wer=16.5)]}
    monkeypatch.setattr("daily.snapshot.open_registry", lambda _: SimpleNamespace(versions=listed.__getitem__))
    assert snapshot(store, day_of(1))[0]["versions"] == []  # and none is made by looking
    assert not store.registry.exists()
    store.registry.mkdir()
    shown = snapshot(store, day_of(1))[0]["versions"]
    assert [(row["number"], row["day"], row["is_champion"]) for row in shown] == [
        (2, day_of(2), False),
        (1, day_of(1), True),
    ]
    listed[MODEL] += [version(number) for number in range(3, VERSIONS_SHOWN + 3)]
    numbers = [row["number"] for row in snapshot(store, day_of(1))[0]["versions"]]
    assert numbers == [*range(VERSIONS_SHOWN + 2, 2, -1), 1]  # the champion, however old
    assert [(row["test"], row["guard"], row["note"]) for row in shown] == [(16.5, None, "no better"), (None, 14.25, "")]


def test_a_snapshot_holds_todays_clip_and_pictures_and_nothing_of_yesterday(store: Store) -> None:
    add_day(store, day_of(0), [Clip()])
    write(store.monitor, *snapshot(store, day_of(0)))
    assert {path.name for path in store.monitor.iterdir()} == {"monitor.json", f"clip-{day_of(0)}.flac"}
    add_day(store, day_of(1), [Clip()])
    store.confidence(day_of(1)).mkdir(parents=True)
    for name in ("calibration.png", "confusion.png"):
        (store.confidence(day_of(1)) / name).write_bytes(b"picture")
    content, files = snapshot(store, day_of(1))
    write(store.monitor, content, files)
    clip = f"clip-{day_of(1)}.flac"
    named = {clip, f"calibration-{day_of(1)}.png"}
    assert {path.name for path in store.monitor.iterdir()} == {"monitor.json", *named}
    assert {content["clip"]["audio"], *(picture["file"] for picture in content["pictures"])} == named
    spoken = store.clips(day_of(1)) / content["clip"]["id"]
    assert (store.monitor / clip).read_bytes() == spoken.read_bytes()
    assert snapshot(store, day_of(1))[0] == content  # nothing in it is of the moment
    assert snapshot(store, day_of(0))[0]["pictures"] == []  # these are of a later day


def test_a_snapshot_that_cannot_be_whole_leaves_the_last_one(store: Store) -> None:
    add_day(store, day_of(0), [Clip()])
    write(store.monitor, *snapshot(store, day_of(0)))
    before = {path.name: path.read_bytes() for path in store.monitor.iterdir()}
    add_day(store, day_of(1), [Clip()])
    for path in store.clips(day_of(1)).glob("*.flac"):
        path.unlink()
    with pytest.raises(UserError, match="is not there, though the store says so"):
        write(store.monitor, *snapshot(store, day_of(1)))
    assert {path.name: path.read_bytes() for path in store.monitor.iterdir()} == before


def test_beside_a_run_the_last_snapshot_stays_and_is_said_to_be_that(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that `make monitor` shows it; the run writes the next one."""
    add_day(store, day_of(0), [Clip()])
    write(store.monitor, *snapshot(store, day_of(0)))
    before = (store.monitor / "monitor.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["snapshot", "--store", str(store.folder)])
    with locked(store.folder):
        monkeypatch.delenv(INHERITED)
        main()
    assert "as the last run left it" in capsys.readouterr().out
    assert (store.monitor / "monitor.json").read_bytes() == before


def test_the_command_says_what_it_wrote_and_what_is_no_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    add_day(store, day_of(0), [Clip()])
    command = [sys.executable, "-m", "daily.snapshot", "--store", str(store.folder), "--day", day_of(0)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{store.monitor}: as of {day_of(0)}, 1 clips, 0 warnings\n"
    for words, says in (
        (["--store", str(tmp_path / "none")], "no store"),
        (["--store", str(store.folder), "--day", "x"], "is not a date"),
    ):
        monkeypatch.setattr(sys, "argv", ["snapshot", *words])
        with pytest.raises(SystemExit, match="2"):
            main()
        error = capfd.readouterr().err
        assert (error.count("\n"), says in error) == (1, True), error
