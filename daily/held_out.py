"""Which transcripts a confidence model is not trained on, so that its scores say what it is worth.

Decision: no sentence and no speaker is on both sides. What is said twice, or by one person, hangs together, and goes to
one side as a whole. Only a speaker of more than the held-out share of all clips (a synthetic voice, the only person
whose recordings there are) may be on both, as nothing would be left to train on otherwise; they are named. The order in
which groups are held out comes from their sentences, so a day more of history moves few of them.

C clips.
"""

import zlib

import numpy as np
from jaxtyping import Bool
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def held_out(
    sentences: list[str], speakers: list[str], share: float, seed: int
) -> tuple[Bool[np.ndarray, "C"], list[str]]:
    """Which clips are held out, at most `share` of them; and the speakers who are on both sides."""
    count = len(sentences)
    _, sentence_C = np.unique(sentences, return_inverse=True)
    names, speaker_C, clips_of = np.unique(speakers, return_inverse=True, return_counts=True)
    # Nodes: the clips, then the sentences, then the speakers.
    linking = np.flatnonzero(clips_of[speaker_C] <= share * count)
    clip = np.concatenate([np.arange(count), linking])
    to = np.concatenate([count + sentence_C, 2 * count + speaker_C[linking]])
    links = coo_array((np.ones(len(clip), np.int8), (clip, to)), shape=(3 * count, 3 * count))
    group_C = connected_components(links, directed=False)[1][:count]
    groups: dict[int, list[int]] = {}
    for place, group in enumerate(group_C.tolist()):
        groups.setdefault(group, []).append(place)

    def drawn(places: list[int]) -> int:
        return zlib.crc32(f"{seed} {min(sentences[place] for place in places)}".encode())

    chosen, held = np.zeros(count, bool), 0
    for places in sorted(groups.values(), key=drawn):
        if held + len(places) <= share * count:
            chosen[places] = True
            held += len(places)
    both = np.intersect1d(speaker_C[chosen], speaker_C[~chosen])
    return chosen, [str(name) for name in names[both]]
