"""The progress bar of a featurize run: clips, clips/s, time left, × real time, bytes."""

from types import TracebackType

from tqdm import tqdm


class Progress:
    """A bar over `total` clips, of which `done` were done by an earlier run."""

    def __init__(self, total: int, done: int) -> None:
        self._bar = tqdm(total=total, initial=done, unit="clip", unit_scale=False, smoothing=0.1, dynamic_ncols=True)
        self._done = done

    def show(self, clips: float, seconds: float, size: float) -> None:
        """What this run has done by now: clips, seconds of speech in all copies, bytes."""
        elapsed = max(self._bar.format_dict["elapsed"], 1e-9)
        self._bar.set_postfix_str(f"{seconds / elapsed:,.0f} × real time, {size / 1e6:,.1f} MB", refresh=False)
        self._bar.update(self._done + int(clips) - self._bar.n)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
