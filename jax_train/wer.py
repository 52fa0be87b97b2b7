"""Word and character error rate as a metric of Hugging Face's `evaluate`, loaded from this file, so without a network.

Decision: `evaluate.load("wer")` fetches its code from the hub at each first use; this module is that metric, on jiwer,
in one file: `evaluate.load("jax_train/wer.py").compute(references=[…], predictions=[…])` gives {"wer": …, "cer": …} as
fractions over the whole corpus (edits / reference words or characters). What is compared is what is given. With
`alignments=True` it gives jiwer's alignments too, of which all finer scores are made. `evaluate` finds what the file
needs line by line, so each import stands alone on its line.
"""

import datasets
import evaluate
import jiwer

DESCRIPTION = (
    "Word and character error rate over a corpus: (substitutions + deletions + insertions) / reference length."
)
CITATION = "jiwer, https://github.com/jitsi/jiwer"


class ErrorRates(evaluate.Metric):
    """WER and CER of `predictions` against `references`, as fractions."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description="references, predictions: equally long lists of sentences, no reference empty",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str], alignments: bool = False) -> dict[str, object]:
        words, characters = (
            jiwer.process_words(references, predictions),
            jiwer.process_characters(references, predictions),
        )
        rates = {"wer": words.wer, "cer": characters.cer}
        return rates | {"words": words, "characters": characters} if alignments else rates
