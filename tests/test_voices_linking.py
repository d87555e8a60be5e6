"""Which voices are one person's: on vectors whose truth is known."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from audio_batch.voices.agglomeration import Group, agglomerate
from audio_batch.voices.linking import (
    KnownVoice,
    Linking,
    VoiceSample,
    highest_number,
    link,
)

Vector = NDArray[np.float32]


def people(count: int, size: int = 64, seed: int = 3) -> NDArray[np.float64]:
    """Directions of unlike voices."""
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def heard(person: NDArray[np.float64], seed: int, noise: float = 0.5) -> Vector:
    """A person's voice in one recording, about 1 / (1 + noise²) like another of the same."""
    grain = np.random.default_rng(seed).normal(size=person.size) / math.sqrt(person.size)
    return (person + noise * grain).astype(np.float32)


def folder_of(
    voices: Sequence[Sequence[int]], *, noise: float = 0.5, first: int = 0, talk_s: float = 20
) -> tuple[list[VoiceSample], dict[tuple[str, str], int]]:
    """Recordings in each of which the given people talk; and who is who."""
    known, samples, truth = people(1 + max(max(who) for who in voices)), [], {}
    for number, who in enumerate(voices, start=first):
        for label, person in enumerate(who):
            sample = VoiceSample(
                f"call-{number:03d}",
                f"SPEAKER_{label:02d}",
                heard(known[person], 1000 * number + label, noise),
                talk_s,
            )
            samples.append(sample)
            truth[sample.key] = person
    return samples, truth


def pairs(assigned: object, keys: Sequence[tuple[str, str]]) -> list[bool]:
    assert hasattr(assigned, "get")
    return [assigned.get(a, a) == assigned.get(b, b) for a, b in combinations(keys, 2)]


def with_ids(samples: Sequence[VoiceSample], linking: Linking) -> list[VoiceSample]:
    return [
        VoiceSample(s.asset_id, s.label, s.embedding, s.talk_s, linking.assigned.get(s.key))
        for s in samples
    ]


# --- agglomeration ---------------------------------------------------------------------------


def plain_average_linkage(
    vectors: NDArray[np.float64], weights: Sequence[float], rooms: Sequence[int], threshold: float
) -> set[frozenset[int]]:
    """By the definition: the likest pair first, the mean of all its pairs, over and over."""
    cosines = vectors @ vectors.T
    groups = [[i] for i in range(len(vectors))]
    while True:
        best, pair = threshold, None
        for a, b in combinations(groups, 2):
            if {rooms[i] for i in a} & {rooms[i] for i in b}:
                continue
            whole = sum(weights[i] * weights[j] for i in a for j in b)
            alike = sum(weights[i] * weights[j] * cosines[i, j] for i in a for j in b) / whole
            if alike >= best:
                best, pair = alike, (a, b)
        if pair is None:
            return {frozenset(group) for group in groups}
        groups = [group for group in groups if group not in pair] + [pair[0] + pair[1]]


@pytest.mark.parametrize("seed", range(12))
def test_it_is_average_linkage_with_pairs_kept_apart(seed: int) -> None:
    chance = np.random.default_rng(seed)
    count, size = 40, 6
    vectors = chance.normal(size=(count, size)) + chance.normal(size=size)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = chance.uniform(0.1, 60, size=count).tolist()
    rooms = chance.integers(count // 2, size=count).tolist()
    threshold = float(chance.uniform(0.3, 0.8))
    groups = [
        Group([i], vectors[i].astype(np.float32), weights[i], {rooms[i]}) for i in range(count)
    ]
    found = {frozenset(group.members) for group in agglomerate(groups, threshold)}
    assert found == plain_average_linkage(vectors, weights, rooms, threshold)


def test_it_is_scipys_average_linkage_where_nothing_is_kept_apart() -> None:
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    chance = np.random.default_rng(1)
    vectors = chance.normal(size=(300, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = hierarchy.fcluster(
        hierarchy.linkage(vectors, "average", metric="cosine"), 0.5, criterion="distance"
    )
    groups = [Group([i], vectors[i].astype(np.float32), 1.0) for i in range(300)]
    found = {frozenset(group.members) for group in agglomerate(groups, 0.5)}
    assert found == {frozenset(np.flatnonzero(labels == n).tolist()) for n in set(labels)}


def test_equal_voices_in_any_number_come_to_an_end() -> None:
    """Rounding must not let equally near groups chase each other."""
    vector = people(1)[0].astype(np.float32)
    groups = [Group([i], vector, 1 + i / 7, {i}) for i in range(300)]
    assert [len(group.members) for group in agglomerate(groups, 0.7)] == [300]
    apart = [Group([i], vector, 1 + i / 7, {i % 2}) for i in range(100)]
    assert [len(group.members) for group in agglomerate(apart, 0.7)] == [2] * 50


def test_a_clear_voice_that_all_others_are_nearest_to() -> None:
    """Every merge then changes every group's nearest."""
    person = people(1, 32)[0]
    vectors = np.stack([person, *(heard(person, n) for n in range(60))]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = [60.0, *(1.5 + n / 100 for n in range(60))]
    rooms = [n // 2 for n in range(61)]
    groups = [Group([i], vectors[i].astype(np.float32), weights[i], {rooms[i]}) for i in range(61)]
    found = {frozenset(group.members) for group in agglomerate(groups, 0.8)}
    assert found == plain_average_linkage(vectors, weights, rooms, 0.8)


def test_nothing_gives_nothing() -> None:
    assert agglomerate([], 0.5) == []
    linking = link([], {}, 0.5, first_number=1)
    assert (linking.assigned, linking.new, linking.unlinked) == ({}, (), ())


# --- linking ---------------------------------------------------------------------------------


def test_unequal_numbers_of_recordings_are_no_hindrance() -> None:
    chance = random.Random(5)
    voices = [[0] for _ in range(60)] + [[1] for _ in range(12)] + [[2], [3], [3], [4, 0]]
    chance.shuffle(voices)
    samples, truth = folder_of(voices)
    linking = link(samples, {}, 0.6, first_number=1)
    assert pairs(linking.assigned, list(truth)) == pairs(truth, list(truth))
    assert linking.new == ("VOICE_0001", "VOICE_0002", "VOICE_0003", "VOICE_0004", "VOICE_0005")
    # Who talks most is first.
    first = {truth[key] for key, voice in linking.assigned.items() if voice == "VOICE_0001"}
    assert first == {0}


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_recordings_does_not_matter(seed: int) -> None:
    """Though the voices are so noisy that many links are doubtful."""
    samples, _ = folder_of([[n % 9, (n + 4) % 9] for n in range(40)], noise=1.1)
    expected = link(samples, {}, 0.45, first_number=1)
    random.Random(seed).shuffle(samples)
    again = link(samples, {}, 0.45, first_number=1)
    assert again.assigned == expected.assigned
    assert again.unlinked == expected.unlinked
    assert len(expected.new) > 9


def test_two_voices_of_one_recording_are_never_one() -> None:
    """Not even the very same vector: the diarization told them apart."""
    vector = heard(people(1)[0], 1)
    samples = [VoiceSample("a", f"SPEAKER_{n:02d}", vector, 20) for n in range(3)]
    samples += [VoiceSample("b", "SPEAKER_00", vector, 20)]
    linking = link(samples, {}, 0.6, first_number=1)
    ids = [linking.assigned["a", f"SPEAKER_{n:02d}"] for n in range(3)]
    assert len(set(ids)) == 3
    assert linking.assigned["b", "SPEAKER_00"] in ids


def test_ids_stay_when_more_recordings_come() -> None:
    early, truth = folder_of([[n % 5, (n + 2) % 5] for n in range(20)])
    first = link(early, {}, 0.6, first_number=1)
    late, more = folder_of([[n % 7] for n in range(30)], first=100)
    both = with_ids(early, first) + late
    second = link(both, first.voices, 0.6, first_number=6)
    assert {key: second.assigned[key] for key in first.assigned} == first.assigned
    assert second.new == ("VOICE_0006", "VOICE_0007")
    truth |= more
    assert pairs(second.assigned, list(truth)) == pairs(truth, list(truth))
    third = link(with_ids(both, second), second.voices, 0.6, first_number=8)
    assert (third.assigned, third.new) == (second.assigned, ())


def test_voices_with_ids_are_never_made_one_unless_all_is_gathered_anew() -> None:
    samples, _ = folder_of([[0] for _ in range(10)])
    split = [
        VoiceSample(
            s.asset_id, s.label, s.embedding, s.talk_s, "VOICE_0007" if n < 6 else "VOICE_0002"
        )
        for n, s in enumerate(samples)
    ]
    kept = link(split, {}, 0.6, first_number=8)
    assert set(kept.assigned.values()) == {"VOICE_0007", "VOICE_0002"}
    anew = link(split, kept.voices, 0.6, first_number=8, relink=True)
    # The one that most of the talk had, so that a name given to it stays with the person.
    assert set(anew.assigned.values()) == {"VOICE_0007"}
    assert anew.new == ()
    assert set(anew.voices) == {"VOICE_0007"}


def test_gathering_anew_parts_what_was_wrongly_one() -> None:
    samples, truth = folder_of([[0], [0], [0], [1], [1]])
    wrong = [VoiceSample(s.asset_id, s.label, s.embedding, s.talk_s, "VOICE_0004") for s in samples]
    anew = link(wrong, {}, 0.6, first_number=5, relink=True)
    by_person = {truth[key]: voice for key, voice in anew.assigned.items()}
    assert by_person == {0: "VOICE_0004", 1: "VOICE_0005"}


def test_a_voice_without_recordings_is_found_again() -> None:
    """All its recordings were diarized anew: same person, other vectors, no ids."""
    samples, _ = folder_of([[0], [0], [1]])
    first = link(samples, {}, 0.6, first_number=1)
    again, truth = folder_of([[0], [1], [2]], first=50)
    second = link(again, first.voices, 0.6, first_number=3)
    by_person = {truth[key]: voice for key, voice in second.assigned.items()}
    assert by_person == {0: "VOICE_0001", 1: "VOICE_0002", 2: "VOICE_0003"}


def test_little_talk_founds_nothing_and_is_linked_only_when_sure() -> None:
    everyone = people(3)
    # 0.6 is the threshold and 0.7 what little talk needs.
    doubtful = 0.65 * everyone[0] + math.sqrt(1 - 0.65**2) * orthogonal(everyone[1], everyone[0])
    samples = [
        VoiceSample("a", "S0", everyone[0].astype(np.float32), 30),
        VoiceSample("b", "S0", doubtful.astype(np.float32), 0.8),
        VoiceSample("c", "S0", doubtful.astype(np.float32), 30),
        VoiceSample("d", "S0", heard(everyone[0], 4, 0.2), 0.8),
        VoiceSample("e", "S0", everyone[2].astype(np.float32), 0.8),
        VoiceSample("f", "S0", everyone[2].astype(np.float32), 0.8),
        VoiceSample("a", "S1", everyone[0].astype(np.float32), 0.8),
    ]
    alone = link([samples[0], samples[1]], {}, 0.6, first_number=1)
    assert alone.unlinked == (("b", "S0"),)
    linking = link([samples[0], *samples[2:]], {}, 0.6, first_number=1)
    assert linking.assigned == {(x, "S0"): "VOICE_0001" for x in "acd"}
    assert linking.unlinked == (("a", "S1"), ("e", "S0"), ("f", "S0"))


def orthogonal(vector: NDArray[np.float64], to: NDArray[np.float64]) -> NDArray[np.float64]:
    rest = vector - to * float(vector @ to)
    return rest / np.linalg.norm(rest)


def test_a_lecture_does_not_outweigh_many_calls() -> None:
    """A voice's mean is by talk time, of which a minute counts at most."""
    person = people(1)[0]
    samples = [VoiceSample("talk", "S0", heard(person, 1, 0.6), 7200)]
    samples += [VoiceSample(f"call-{n}", "S0", heard(person, 10 + n, 0.6), 40) for n in range(9)]
    (voice,) = link(samples, {}, 0.5, first_number=1).voices.values()
    units = np.stack([s.embedding / np.linalg.norm(s.embedding) for s in samples])
    assert voice.weight_s == pytest.approx(420)
    assert voice.mean == pytest.approx((units[0] * 60 + units[1:].sum(axis=0) * 40) / 420, abs=1e-6)


def test_vectors_that_are_none_are_left_alone() -> None:
    good, _ = folder_of([[0], [0]])
    bad = [
        VoiceSample("nan", "S0", np.full(64, np.nan, np.float32), 20),
        VoiceSample("zero", "S0", np.zeros(64, np.float32), 20),
        VoiceSample("short", "S0", np.ones(3, np.float32), 20),
        VoiceSample("huge", "S0", np.full(64, np.inf, np.float32), 20),
        VoiceSample("empty", "S0", np.zeros(0, np.float32), 20),
    ]
    linking = link([*bad, *good], {}, 0.6, first_number=1)
    assert set(linking.assigned) == {sample.key for sample in good}
    assert {asset for asset, _ in linking.unlinked} == {"nan", "zero", "short", "huge", "empty"}
    # A space whose vectors have another size than these is not theirs.
    known = {"VOICE_0009": KnownVoice(np.ones(7, np.float32), 1.0)}
    assert link(good, known, 0.6, first_number=10).assigned == {}


def test_ids_are_counted_on_from_the_highest() -> None:
    ids = ["VOICE_0007", "VOICE_12345", "Alice", "VOICE_", "VOICE_٣", "VOICE_" + "9" * 40]
    assert highest_number(ids) == 12345
    assert highest_number([]) == 0


MANY = """
import resource, sys
import numpy as np
from audio_batch.voices.linking import VoiceSample, link
chance = np.random.default_rng(2)
people = chance.normal(size=(150, 128)).astype(np.float32)
who = np.concatenate([chance.permutation(150)[:2] for _ in range(5000)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
samples = [
    VoiceSample(f"r{n // 2}", f"S{n % 2}", people[p] + 0.5 * chance.normal(size=128)
                .astype(np.float32), 10.0)
    for n, p in enumerate(who)
]
linking = link(samples, {}, 0.6, first_number=1)
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
pure = all(len({who[int(a[1:]) * 2 + int(l[1:])] for (a, l), v in linking.assigned.items()
                if v == voice}) == 1 for voice in linking.new[:20])
print(len(linking.new), len(linking.assigned), pure, more // 1024)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="memory is measured by getrusage")
def test_ten_thousand_voices_fit_in_little_memory() -> None:
    """The matrix of their pairs alone would be 400 MB (in float32)."""
    done = subprocess.run(
        [sys.executable, "-c", MANY], capture_output=True, text=True, check=True, timeout=300
    )
    new, assigned, pure, more_mb = done.stdout.split()
    assert (int(new), int(assigned), pure) == (150, 10_000, "True")
    assert int(more_mb) < 200
