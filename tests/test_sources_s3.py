"""Sources in an object store: a corpus, its archive and a manifest, over S3's protocol."""

import tarfile
from pathlib import Path

import pytest
from upath import UPath

from data.clips import ClipError, CorpusError
from data.sources import SourceOptions, read_split


@pytest.fixture(scope="module")
def corpora(bucket, sample_corpus, tmp_path_factory):
    """A folder of the bucket with the first three clips of dev, as a folder and as archives."""
    fill(bucket / "corpora", sample_corpus, tmp_path_factory.mktemp("archives"))
    return bucket / "corpora"


def fill(bucket: UPath, corpus: Path, folder: Path) -> None:
    lines = (corpus / "dev.tsv").read_text(encoding="utf-8").splitlines()[:4]
    files = {"it/dev.tsv": ("\n".join(lines) + "\n").encode()}
    files |= {f"it/clips/{line.split(chr(9))[1]}": b"" for line in lines[1:]}
    for name in list(files)[1:]:
        files[name] = (corpus.parent / name).read_bytes()
    for name, content in files.items():
        (bucket / name).write_bytes(content)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name in ("it.tar.gz", "it.tar"):
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar:
            tar.add(folder / "it", "cv/it")
        (bucket / name).write_bytes((folder / name).read_bytes())
    manifest = "".join(f'{{"audio_filepath": "{name}", "text": "Sì"}}\n' for name in list(files)[1:])
    (bucket / "dev.jsonl").write_text(manifest, encoding="utf-8")


@pytest.mark.parametrize("source", ["it", "it.tar.gz", "it.tar", "dev.jsonl"])
def test_a_source_in_s3_gives_the_clips_it_gives_here(corpora, sample_corpus, tmp_path, source):
    options = SourceOptions(cache=str(tmp_path))
    for _ in range(2):
        clips = read_split(str(corpora / source), "dev", options).clips
        assert len(clips) == 3
        for clip in clips:
            assert clip.audio.load() == (sample_corpus / "clips" / clip.id.rpartition("/")[2]).read_bytes()


def test_an_index_may_be_kept_in_s3(corpora, sample_corpus):
    options = SourceOptions(cache=str(corpora / "cache"))
    clip = read_split(str(corpora / "it.tar.gz"), "dev", options).clips[0]
    assert clip.audio.load() == (sample_corpus / "clips" / clip.id).read_bytes()
    assert sorted(path.suffix for path in (corpora / "cache").iterdir()) == [".gzidx", ".json"]


def test_what_is_not_in_s3_is_named(corpora):
    with pytest.raises(CorpusError, match=r"no corpus: s3://sussurro/corpora/nowhere is not a folder"):
        read_split(str(corpora / "nowhere"), "dev")
    clip = read_split(str(corpora / "it"), "dev").clips[0]
    UPath(clip.audio.path).unlink()
    with pytest.raises(ClipError, match=r"no such file: s3://sussurro/corpora/it/clips/"):
        clip.audio.load()
