"""The parts of deduplication against plain Python: normal forms, shingles, MinHash, SimHash, candidates, clusters."""

import math
import random
import unicodedata
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyllm.errors import UserError
from babyllm.ragged import Ragged, hash_rows, offsets_of
from babyllm.text.dedup.exact import exact_forms
from babyllm.text.dedup.near import candidates, simhash, verify
from babyllm.text.dedup.near.cluster import chains, components, graph_of, independent
from babyllm.text.dedup.near.frequencies import frequencies, inverse_frequencies
from babyllm.text.dedup.near.minhash import Bands, MinHashConfig, band_keys, choose_bands, signatures
from babyllm.text.dedup.near.shingles import ShingleConfig, counted, distinct, shingles, words
from babyllm.text.dedup.normal import characters, fold, normal_form

ODD = "aeEßſ中文、。 \n½…ﬁ①Ａ１，\u0301\u0327éÅ\u1100\u1161\u11a8각ガｶﾞ\u3099\ufe0f\U000e0100😀+~\u200b"
TEXTS = st.text(st.one_of(st.sampled_from(ODD), st.characters(exclude_categories=("Cs",))), max_size=12)


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def rows(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[a:b].tolist() for a, b in zip(ragged.offsets, ragged.offsets[1:], strict=False)]


def plain_shingles(text: str, n: int) -> set[str]:
    normal = normal_form(text)
    return {normal[i : i + n] for i in range(max(1, len(normal) - n + 1))} if normal else set()


def poems(n: int, seed: int = 1) -> list[str]:
    """Texts of which many are similar, some equal, some empty or short."""
    rng = random.Random(seed)
    texts = ["", "。", "天", "天地玄"]
    while len(texts) < n:
        if rng.random() < 0.5:
            texts.append("".join(chr(rng.randrange(0x4E00, 0x4E40)) for _ in range(rng.randrange(1, 90))))
        else:
            letters = list(rng.choice(texts))
            for _ in range(rng.randrange(4)):
                if letters:
                    letters[rng.randrange(len(letters))] = chr(rng.randrange(0x4E00, 0x9FA0))
            texts.append("".join(letters))
    return texts


# ---- normal forms


@given(st.lists(TEXTS, max_size=5))
def test_many_texts_are_normalised_as_one_is(texts: list[str]) -> None:
    """The table agrees with NFKC and casefold, even if code points act on their neighbours."""
    points = rows(characters(fold(column(texts))))
    assert ["".join(map(chr, row)) for row in points] == [normal_form(text) for text in texts]


def test_every_code_point_has_the_normal_form_of_its_nfkc() -> None:
    """Each code point becomes its folded NFKC form without whitespace, punctuation, controls and selectors."""
    blocks = (range(0xAC10), range(0xD790, 0xD800), range(0xE000, 0x18000), range(0x1B000, 0x20010))
    blocks += (range(0x2F7F0, 0x2FA30), range(0x33470, 0x33490), range(0xDFFF0, 0xE0200), range(0x10FFF0, 0x110000))
    texts = [chr(c) for block in blocks for c in block]
    for text, row in zip(texts, rows(characters(fold(column(texts)))), strict=True):
        folded = unicodedata.normalize("NFKC", text).casefold()
        kept = [
            c for c in folded if unicodedata.category(c) not in ("Cc", "Cf") and unicodedata.category(c)[0] not in "ZP"
        ]
        if not (0xFE00 <= ord(text) < 0xFE10 or 0xE0100 <= ord(text) < 0xE01F0):
            assert row == list(map(ord, kept)), hex(ord(text))


def test_a_slice_of_a_column_is_folded_from_its_own_beginning() -> None:
    """The offset of a sliced column is respected."""
    texts = ["天地", "", "e\u0301", "Ｘ"]
    assert rows(fold(column(texts).slice(1, 3))) == [[], [0xE9], [ord("x")]]
    assert rows(fold(column([]))) == []


def test_texts_that_differ_in_width_case_and_punctuation_are_the_same() -> None:
    """Equal normal forms have equal keys, different ones have different keys."""
    first, second = hash_rows(characters(fold(column(["Ｈello，　World！", "hello world", "world hello", "", "!"]))))
    assert first[0] == first[1] != first[2] and second[0] == second[1] != second[2]
    assert first[3] == first[4]


# ---- shingles


@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers(1, 6))
def test_sets_of_hashes_are_as_similar_as_sets_of_strings(texts: list[str], n: int) -> None:
    """The Jaccard similarity of two rows of `distinct` is that of the sets of n-grams."""
    sets = [set(row) for row in rows(distinct(shingles(fold(column(texts)), ShingleConfig(n=n))))]
    plain = [plain_shingles(text, n) for text in texts]
    for i, j in combinations(range(len(texts)), 2):
        assert len(sets[i] & sets[j]) == len(plain[i] & plain[j])
    assert [len(one) for one in sets] == [len(one) for one in plain]


def test_words_are_single_chinese_characters_and_runs_of_others() -> None:
    """Punctuation, symbols and Chinese characters end a word, and texts do not run into each other."""
    a, b, c, d = rows(words(fold(column(["GPT4模型，hello+world", "gpt4", "hello world", "模 型"]))))
    assert len(a) == 5
    assert [a[0]] == b and a[3:] == c and a[1:3] == d


def test_shingles_of_words_and_of_jieba_tokens_differ_from_those_of_characters() -> None:
    """The kind determines the tokens of a shingle."""
    pytest.importorskip("jieba")
    texts = fold(column(["北京大学的学生在图书馆看书", "北京大学 的 学生", ""]))
    n_tokens = {
        kind: [len(row) for row in rows(shingles(texts, ShingleConfig(kind, 1)))]
        for kind in ("characters", "words", "jieba")
    }
    assert n_tokens["characters"] == n_tokens["words"] == [13, 7, 0]
    assert 4 <= n_tokens["jieba"][0] < 13 and n_tokens["jieba"][1] == 3 and n_tokens["jieba"][2] == 0


def test_occurrences_are_counted() -> None:
    """A shingle's count is the number of its occurrences in the text."""
    sets, counts = counted(shingles(fold(column(["aaaa", "ab", ""])), ShingleConfig(n=1)))
    assert [len(row) for row in rows(sets)] == [1, 2, 0] and counts.tolist() == [4, 1, 1]


# ---- MinHash


def test_estimates_are_those_of_independent_permutations() -> None:
    """The mean share of equal rows is the Jaccard similarity, and its spread is that of datasketch."""
    datasketch = pytest.importorskip("datasketch")
    rng, n, size = random.Random(2), 128, 80
    errors, theirs = [], []
    for _ in range(150):
        text = "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(size))
        cut = rng.randrange(5, size)
        pair = [text, text[:cut] + "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(size - cut))]
        a, b = (plain_shingles(t, 5) for t in pair)
        true = len(a & b) / len(a | b)
        signature = signatures(shingles(fold(column(pair)), ShingleConfig()), n)
        spread = math.sqrt(max(true * (1 - true), 0.25 / n) / n)
        errors.append((float(np.mean(signature[:, 0] == signature[:, 1])) - true) / spread)
        if len(theirs) < 30:
            hashes = [datasketch.MinHash(n) for _ in pair]
            for minhash, elements in zip(hashes, (a, b), strict=True):
                minhash.update_batch([e.encode() for e in elements])
            theirs.append((hashes[0].jaccard(hashes[1]) - true) / spread)
    assert abs(np.mean(errors)) < 4 / math.sqrt(len(errors))
    assert 0.7 < np.std(errors) < 1.3 and 0.5 < np.std(theirs) < 1.6
    assert np.max(np.abs(errors)) < 5


def test_a_signature_does_not_depend_on_other_texts() -> None:
    """A text has the same signature and band keys alone and among others; one without shingles is marked."""
    texts = poems(300)
    together = signatures(shingles(fold(column(texts)), ShingleConfig()), 12)
    alone = [signatures(shingles(fold(column([text])), ShingleConfig()), 12)[:, 0] for text in texts]
    assert np.array_equal(together, np.stack(alone, axis=1))
    assert (together == 0xFFFFFFFF).all(axis=0).tolist() == [not normal_form(text) for text in texts]
    keys = band_keys(together, Bands(4, 3))
    bands = together.reshape(4, 3, -1)
    same = (bands[:, :, :, None] == bands[:, :, None, :]).all(axis=1)
    assert np.array_equal(keys[:, :, None] == keys[:, None, :], same)


def test_bands_reach_the_recall_with_the_permutations() -> None:
    """The chosen bands find a pair at the threshold with the wanted probability; one band fewer would not."""
    for threshold in (0.5, 0.7, 0.85, 0.95):
        bands = choose_bands(MinHashConfig(), threshold)
        assert bands.n * bands.rows <= 256 and bands.recall(threshold) >= 0.995
        assert Bands(bands.n - 1, bands.rows).recall(threshold) < 0.995
    assert choose_bands(MinHashConfig(rows=10), 0.85).rows == 10
    with pytest.raises(UserError, match=r"--minhash.permutations=7"):
        choose_bands(MinHashConfig(permutations=7), 0.5)


# ---- SimHash


def test_fingerprints_are_the_signs_of_the_weighted_votes() -> None:
    """Each bit equals that of the plain definition, for 64 and 128 bits and for weights of tf-idf."""
    texts = poems(40)
    sets, occurrences = counted(shingles(fold(column(texts)), ShingleConfig(n=2)))
    idf = inverse_frequencies(frequencies(sets), len(texts))
    for given_weight in (None, simhash.weights(sets, occurrences, idf)):
        prints = simhash.fingerprints(sets, given_weight, 128)
        assert np.array_equal(prints[:, :1], simhash.fingerprints(sets, given_weight, 64))
        weight = np.ones(len(sets.values), np.int64) if given_weight is None else given_weight
        for i, (a, b) in enumerate(zip(sets.offsets, sets.offsets[1:], strict=False)):
            votes = [0] * 128
            for value, w in zip(sets.values[a:b].tolist(), weight[a:b].tolist(), strict=True):
                for word in range(2):
                    hashed = _split_mix(value + (word + 1) * 0x9E3779B97F4A7C15)
                    for bit in range(64):
                        votes[64 * word + bit] += w if hashed >> bit & 1 else -w
            expected = [sum(1 << bit for bit in range(64) if votes[64 * word + bit] > 0) for word in range(2)]
            assert prints[i].tolist() == expected


def _split_mix(x: int) -> int:
    mask = (1 << 64) - 1
    x &= mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def test_rare_shingles_weigh_more() -> None:
    """The weight of tf-idf grows with the occurrences and falls with the number of documents with the shingle."""
    sets, occurrences = counted(shingles(fold(column(["天天地", "地玄", "地"])), ShingleConfig(n=1)))
    idf = inverse_frequencies(frequencies(sets), 3)
    weight = dict(
        zip(
            zip(np.repeat([0, 1, 2], sets.lengths()), sets.values, strict=True),
            simhash.weights(sets, occurrences, idf),
            strict=True,
        )
    )
    ground = set(sets.values[sets.offsets[2] :]).pop()
    sky = next(value for value in rows(sets)[0] if value != ground)
    assert weight[(0, ground)] == weight[(2, ground)] == 256
    assert weight[(0, sky)] == round(256 * 2 * (1 + math.log(4 / 2)))


@pytest.mark.parametrize(("bits", "distance"), [(64, 3), (128, 3), (64, 0), (64, 1)])
def test_tables_find_all_fingerprints_within_the_distance(bits: int, distance: int) -> None:
    """Whichever bits are flipped, up to the distance, some table has the same key; `within` keeps exactly those."""
    rng = np.random.default_rng(3)
    prints = rng.integers(0, 2**63, (200, bits // 64), dtype=np.uint64)
    near = prints.copy()
    for i in range(len(near)):
        for bit in rng.choice(bits, rng.integers(0, distance + 3), replace=False):
            near[i, bit // 64] ^= np.uint64(1 << (bit % 64))
    difference = [
        bin(int.from_bytes((a ^ b).tobytes(), "little")).count("1") for a, b in zip(prints, near, strict=True)
    ]
    assert simhash.hamming(prints, near).tolist() == difference
    for n_documents in (10, 10**6, 10**9):
        n = simhash.n_blocks(simhash.SimHashConfig(bits=bits, distance=distance), n_documents)
        same = simhash.table_keys(prints, n, distance) == simhash.table_keys(near, n, distance)
        assert all(same.any(axis=0) | (np.array(difference) > distance))
    pairs = candidates.pack(np.arange(200), np.arange(200, 400))
    kept = candidates.unpack(simhash.within(pairs, np.concatenate([prints, near]), distance))[0]
    assert kept.tolist() == [i for i, d in enumerate(difference) if d <= distance]


# ---- candidates


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 50))
def test_all_pairs_of_a_key_are_found_or_passed_on_as_a_group(keys: list[int], at_once: int) -> None:
    """However the keys are cut into spans, a small run yields all its pairs and a large one its documents."""
    table = (np.array([keys, keys], np.uint64) * np.uint64(0x9E3779B97F4A7C15 >> 4)).reshape(2, -1)
    entries = candidates.entries(table, np.arange(len(keys)))
    found = []
    for spans in candidates.spans(2, len(keys), at_once):
        for number, start, stop in spans:
            inside = entries[number] >> np.uint64(32)
            found.append(candidates.find(entries[number][(inside >= start) & (inside < stop)]))
    pairs, groups = candidates.merge(found)
    documents = [[i for i, key in enumerate(keys) if key == k] for k in sorted(set(keys))]
    small = {pair for d in documents if len(d) <= candidates.ALL_PAIRS_LIMIT for pair in combinations(d, 2)}
    assert list(zip(*(side.tolist() for side in candidates.unpack(pairs)), strict=True)) == sorted(small)
    assert sorted(rows(groups)) == [d for d in documents if len(d) > candidates.ALL_PAIRS_LIMIT]


def test_similarities_are_those_of_plain_sets(tmp_path: Path) -> None:
    """`verify` keeps the pairs at the threshold, with the Jaccard similarity of their texts' shingles."""
    texts = poems(120)
    documents = np.flatnonzero([bool(normal_form(text)) for text in texts])
    sets = distinct(shingles(fold(column([texts[i] for i in documents])), ShingleConfig(n=3)))
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for folder, start, stop in zip(folders, (0, 50, 50), (50, 50, len(documents)), strict=True):
        folder.mkdir()
        part = Ragged(
            sets.values[sets.offsets[start] : sets.offsets[stop]], sets.offsets[start : stop + 1] - sets.offsets[start]
        )
        verify.write_sets(folder, documents[start:stop], part)
    plain = {i: plain_shingles(texts[i], 3) for i in documents.tolist()}
    expected = {(a, b): len(plain[a] & plain[b]) / len(plain[a] | plain[b]) for a, b in combinations(plain, 2)}
    pairs = candidates.pack(*np.array(list(expected)).T)
    links = verify.verify(verify.SetStore(folders), pairs, 0.6)
    found = dict(
        zip(
            zip(*(side.tolist() for side in candidates.unpack(links.pairs)), strict=True), links.similarity, strict=True
        )
    )
    assert found == {pair: s for pair, s in expected.items() if s >= 0.6}
    assert len(found) > 30


def test_a_large_group_of_similar_texts_takes_one_round(tmp_path: Path) -> None:
    """Of m near-identical texts m - 1 pairs are compared, and all are linked; dissimilar texts are not."""
    rng, base = random.Random(4), [chr(0x4E00 + i) for i in range(200)]
    texts = []
    for i in range(1000):
        letters = list(base)
        letters[rng.randrange(200)] = chr(0x6000 + i)
        texts.append("".join(letters))
    texts.append("".join(chr(0x7000 + i) for i in range(200)))
    verify.write_sets(tmp_path, np.arange(1001), distinct(shingles(fold(column(texts)), ShingleConfig())))
    links = verify.verify_groups(verify.SetStore([tmp_path]), Ragged(np.arange(1001), np.array([0, 1001])), 0.85)
    assert len(links.pairs) == 999
    assert components(1001, *candidates.unpack(links.pairs)).tolist() == [0] * 1000 + [1000]


# ---- exact forms


def test_all_kinds_of_blanks_and_of_line_breaks_are_equal() -> None:
    """Among all code points, every blank equals a space, every line break a line feed, and no other one does."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    forms = rows(exact_forms(column([f"a{point}b" for point in points]), []))
    blanks = [p for p in points if unicodedata.category(p) == "Zs" or p in "\t\v\f"]
    assert [p for p, form in zip(points, forms, strict=True) if form == [97, 32, 98]] == sorted(blanks)
    breaks = [p for p, form in zip(points, forms, strict=True) if form == [97, 10, 98]]
    assert breaks == ["\n", "\r", "\x85", "\u2028", "\u2029"]


# ---- clusters


@given(st.integers(1, 30), st.data())
def test_components_are_those_of_the_naive_closure(n: int, data: st.DataObject) -> None:
    """Two nodes have the same number exactly if a path joins them, and it is the smallest of their component."""
    edges = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))
    part = {i: {i} for i in range(n)}
    for a, b in edges:
        union = part[a] | part[b]
        for node in union:
            part[node] = union
    a, b = np.array(edges, np.int64).reshape(-1, 2).T
    assert components(n, a, b).tolist() == [min(part[i]) for i in range(n)]


def test_a_long_chain_is_one_component() -> None:
    """A path through nodes in any order is one component, found in few rounds."""
    path = np.random.default_rng(5).permutation(100_000)
    assert not components(100_000, path[:-1], path[1:]).any()


def test_the_first_in_order_survives_and_neighbours_are_direct_or_nearest() -> None:
    """A document linked to the survivor names it; any other names its most similar neighbour."""
    documents = np.array([3, 5, 8, 9, 20, 21])
    order = np.array([5, 0, 3, 4, 2, 1])  # 5 survives among 3 5 8 9, and 21 among 20 21
    links = [(3, 5, 0.86, 1), (3, 8, 0.99, 1), (8, 9, 1.0, 0), (3, 9, 0.9, 1), (20, 21, 0.9, 2), (20, 21, 0.9, 1)]
    a, b, similarity, method = (np.array(part) for part in zip(*links, strict=True))
    found = chains(graph_of(documents, order, candidates.pack(a, b), similarity, method))
    assert found.survivor.tolist() == [5, 5, 5, 5, 21, 21]
    assert found.neighbour.tolist() == [5, 5, 3, 8, 21, 21]
    assert found.similarity.tolist() == [0.86, 1.0, 0.99, 1.0, 0.9, 1.0]
    assert found.method.tolist() == [1, -1, 1, 0, 1, -1]


@given(st.integers(1, 30), st.data())
def test_nodes_stay_unless_linked_to_a_smaller_one_that_stays(n: int, data: st.DataObject) -> None:
    """The choice equals that of visiting the nodes one by one."""
    nodes = st.integers(0, n - 1)
    edges = [(min(e), max(e)) for e in data.draw(st.lists(st.tuples(nodes, nodes), max_size=60)) if e[0] != e[1]]
    kept: list[int] = []
    for node in range(n):
        if not any((other, node) in edges for other in kept):
            kept.append(node)
    low, high = np.array(edges, np.int64).reshape(-1, 2).T
    assert np.flatnonzero(independent(n, low, high)).tolist() == kept


def test_offsets_of_no_rows() -> None:
    """An array without rows has one offset."""
    assert offsets_of(np.empty(0, np.int64)).tolist() == [0]
