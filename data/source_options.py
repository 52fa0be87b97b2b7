"""What some kinds of source need to be told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceOptions:
    """Each says which kind of source it is for."""

    cache: str | None = None
    """Folder that every worker sees, for an archive's index of seek points; by default .archives in the shards'."""
    audio_root: str | None = None
    """Manifests: folder that their paths are relative to, and must lie in; by default the manifest's own."""
    text_column: str | None = None
    """Manifests, datasets: by default text, sentence, transcription, transcript or normalized_text."""
    speaker_column: str | None = None
    """Manifests, datasets: by default speaker, speaker_id or client_id, if there is one."""
    min_confidence: float | None = None
    """Manifests: leave out, into rejected.tsv, what a column confidence gives less, as of pseudo-labels."""
    audio_column: str | None = None
    """Datasets: by default the only column of audio, or the one called audio."""
    dataset_config: str | None = None
    """Datasets with several configurations: which; for example the language."""
    streaming: bool = False
    """Datasets: read over the network as needed, instead of downloading all of it first."""
    speakers_disjoint: bool = False
    """Stop if another of train, dev and test has a speaker of this split."""


DEFAULTS = SourceOptions()
