"""A place for shards that its disk or store will not give is one line, whichever command asks for it."""

import pytest
from botocore.exceptions import EndpointConnectionError
from s3fs import S3FileSystem

from data.errors import UserError
from data.preview import PreviewConfig, preview
from data.storage import open_folder, writing_to
from data.verify import VerifyConfig, verify


@pytest.fixture(autouse=True)
def _dead_store(monkeypatch):
    """Port 9 discards, and nobody listens there. A store of the same name that another test spoke to is forgotten."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ("nope://x", "^nope://x cannot be read: .*'nope'"),
        ("s3://sussurro-dead/x", "^s3://sussurro-dead/x cannot be read: Could not connect to the endpoint"),
    ],
)
def test_shards_in_a_store_that_does_not_answer_are_named(sample_corpus, base_model_dir, tmp_path, shards, said):
    page = tmp_path / "page.html"
    config = PreviewConfig(str(sample_corpus), str(base_model_dir), split="dev", shards=shards, output=str(page))
    for ask in (
        lambda: open_folder(shards),
        lambda: verify(VerifyConfig(shards)),
        lambda: preview(config),
    ):
        with pytest.raises(UserError, match=said):
            ask()
    assert not page.exists()


def test_a_store_that_stops_answering_at_writing_is_named_and_a_bug_is_not_hidden():
    with pytest.raises(UserError, match=r"^s3://b/x: could not connect .* nothing is lost"), writing_to("s3://b/x"):
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(TypeError), writing_to("s3://b/x"):
        raise TypeError("a bug")
