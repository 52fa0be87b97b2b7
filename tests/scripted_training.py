"""The commands of a day's training, scripted: each writes what the real one writes, as far as the stage reads it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path


class Commands:
    """In place of the commands: writes what each writes; ends the process at the command number `kill_at`."""

    def __init__(self, change: float = -2.0, guard_change: float = 0.0) -> None:
        self.change, self.guard_change = change, guard_change
        self.names: list[str] = []
        self.given: dict[str, dict[str, str]] = {}
        self.kill_at = -1
        self.before: dict[str, Callable[[], object]] = {}

    def __call__(self, command: Sequence[str]) -> None:
        name = command[2].removeprefix("jax_train.")
        if len(self.names) == self.kill_at:
            self.kill_at = -1
            raise KeyboardInterrupt
        self.names.append(name)
        options = dict(zip(command[3::2], command[4::2], strict=True))
        self.given[name] = options
        self.before.pop(name, lambda: None)()
        getattr(self, name)(**{key.removeprefix("--").replace("-", "_"): value for key, value in options.items()})

    def train(self, run: str, model: str, shards: str, split: str, **_: str) -> None:
        assert (Path(shards) / split / "manifest.json").is_file()
        assert (Path(model) / "model.safetensors").is_file()
        assert not list(Path(model).glob("confidence.json"))
        write(Path(run) / "config.json", {"model": model, "steps": 8})
        write(Path(run) / "checkpoints" / "8" / "state.json", {})
        write(Path(run) / "summary.json", {"step": 8})

    def evaluate(self, out: str, split: str, windows: str, model: str = "", run: str = "", **_: str) -> None:
        wer = 20.0 + (self.change if run else 0.0)
        rates = {"wer_normalised": wer, "cer_normalised": wer / 2}
        intervals = {"over_clips": {name: [rate - 1, rate + 1] for name, rate in rates.items()}}
        settings = {"windows": windows, "split": split, "model": model}
        write(Path(out) / "scores.json", rates | {"intervals": intervals, "settings": settings})

    def curves(self, run: str) -> None:
        (Path(run) / "curves.png").write_bytes(b"picture")

    def export(self, run: str, model_dir: str, **_: str) -> None:
        assert (Path(run) / "evaluate-test" / "scores.json").is_file()  # for the model card
        write(Path(model_dir) / "config.json", {})
        (Path(model_dir) / "model.safetensors").write_text(run)

    def compare(self, a: str, b: str, out: str, **_: str) -> None:
        challengers = Path(out).parent / "run" / Path(out).name.replace("compare", "evaluate")
        assert (Path(a) == challengers, Path(b) == challengers) == (False, True)
        change = self.guard_change if out.endswith("guard") else self.change
        found = {"difference": change, "interval": [change - 1, change + 1], "p_value": 0.01, "improved": 1.0}
        sides = {side: {"name": name, "wer_normalised": 20.0} for side, name in (("a", a), ("b", b))}
        write(Path(out) / "compare.json", sides | {"clips": 80, "over_clips": {"wer_normalised": found}})


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
