"""Each figure of scores.json is that of its own clips and of its own kind of edits: two clips, counted by hand."""

from types import SimpleNamespace

import numpy as np

from jax_train.score_table import table
from jax_train.scoring import score


class Shards:
    """Four records, of whose log-mels there is the signal-to-noise ratio alone; those at 3 and 1 are scored."""

    def __init__(self) -> None:
        self.index = {
            "id": np.array(["a", "b", "c", "d"], object),
            "speaker": np.array(["", "bruno", "", "anna"], object),
            "seconds": np.array([7, 12, 7, 3], np.float32),
        }

    def __getitem__(self, row: int) -> SimpleNamespace:
        return SimpleNamespace(log_mel_q=(-9, 5, -9, 35)[row])


def test_every_figure_is_of_the_clips_scored(monkeypatch):
    """Of «c è il sole» one word is inserted; «sì» is another word. As written two more words are not the same."""
    monkeypatch.setattr("jax_train.scoring.snr_db", float)
    loop = "s" + "ì" * 200
    found = score(Shards(), np.array([3, 1]), ["C'è il sole.", "Sì"], ["c'è il sole oggi", loop])
    result, clips = found.result, found.clips.to_pydict()
    assert (result["clips"], result["speech_seconds"]) == (2, 15)
    assert (result["wer"], result["wer_normalised"]) == (100, 40)
    by_range = [
        [(part["from"], part["to"], part["clips"], part["wer_normalised"]) for part in result[parts]]
        for parts in ("by_seconds", "by_snr_db")
    ]
    assert by_range == [[(2, 4, 1, 25), (10, 15, 1, 100)], [(0, 10, 1, 100), (30, 40, 1, 25)]]
    assert result["edits"]["as_written"]["substitutions"] == 3
    assert result["edits"]["normalised"]["substitutions"] == 1
    assert result["confusions_normalised"]["substitutions"] == [{"reference": "sì", "hypothesis": loop, "count": 1}]
    assert (result["signs"]["repetitions"], result["signs"]["insertion_rate"]) == (1, 20)
    assert (clips["id"], clips["speaker"], clips["snr_db"]) == (["d", "b"], ["anna", "bruno"], [35, 5])
    assert (clips["words"], clips["words_normalised"]) == ([3, 1], [4, 1])
    assert clips["repetition"] == [False, True]


def test_each_rate_stands_in_the_table_with_its_own_interval():
    ends = {"wer": [20, 30], "wer_normalised": [10, 20], "cer": [5, 7], "cer_normalised": [3, 5]}
    result = {"wer": 25, "wer_normalised": 15, "cer": 6, "cer_normalised": 4, "normaliser": "none", "settings": {}}
    result |= {"model": "m", "split": "test", "clips": 9, "speech_seconds": 9.0, "seconds": {}}
    result |= {"intervals": {"over_clips": ends}, "signs": {"hallucinations": 1, "repetitions": 2}}
    rows = [" ".join(line.split()) for line in table(result).splitlines()]
    assert "WER 25.00 % (20.00–30.00) 15.00 % (10.00–20.00)" in rows
    assert "CER 6.00 % (5.00–7.00) 4.00 % (3.00–5.00)" in rows
