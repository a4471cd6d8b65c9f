"""Contamination: rows that hold an item are found, others are not, and the files say so."""

from __future__ import annotations

import gzip
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gra.cli.main import main
from gra.core.errors import DataError
from gra.core.run_folder import RunFolder
from gra.data.contamination import SuiteIndex, SuiteItem, verdict_of
from gra.data.contamination.report import check_dataset, read_items_found
from gra.data.contamination.sketch import NearDuplicates, jaccard
from gra.data.contamination.texts import read_dataset, read_items
from gra.data.contamination.words import GramTable, Vocabulary, excerpt, grams, words

TRAINS = "A train leaves the old harbour at nine and reaches the northern valley before the market closes at noon."
BEES = "Explain to a child why worker bees dance in the dark hive after they have found a new field of clover."
ITEMS = [
    SuiteItem("math", "m0", TRAINS),
    SuiteItem("science", "s0", BEES, ("they are cold", "they show the others where it is")),
    SuiteItem("science", "s1", "Which one is true?", ("Iron floats on water", "Ice floats on water")),
    SuiteItem("science", "s2", "Which one is true?", ("Salt melts ice", "Sugar melts iron")),
    SuiteItem("logic", "l0", "not true or false and true"),
]
ALPHABET = [f"w{n}" for n in range(60)]


def found(*texts: str, items: list[SuiteItem] = ITEMS) -> list[tuple[str, str, str]]:
    index = SuiteIndex(items)
    return [(index.items[m.item].id, m.method, m.verdict) for m in index.check([texts])[0]]


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5))
def test_grams_are_equal_when_their_words_are(text: list[str], n: int) -> None:
    hashes = grams(Vocabulary([["a", "b", "c"]]).values(text), n)
    runs = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
    assert len(hashes) == len(runs)
    for i, one in enumerate(runs):
        for j, two in enumerate(runs):
            assert (hashes[i] == hashes[j]) == (one == two)


def test_words_outside_the_suite_have_different_values() -> None:
    values = Vocabulary([["a"]]).values(["b", "c", "b", "a", "d"])
    assert values[0] == values[2]
    assert len(set(values.tolist())) == 4


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=30), st.lists(st.integers(0, 12), max_size=30)
)
def test_gram_table_by_brute_force(entries: list[tuple[int, int]], asked: list[int]) -> None:
    spread = np.uint64(0x9E3779B97F4A7C15)  # tables expect hashes, whose high bits differ
    keys = np.array([key for key, _ in entries], dtype=np.uint64) * spread
    table = GramTable(keys, np.array([owner for _, owner in entries], dtype=np.int32))
    places, owners = table.find(np.array(asked, dtype=np.uint64) * spread)
    expected = sorted((i, owner) for i, key in enumerate(asked) for k, owner in entries if k == key)
    assert sorted(zip(places.tolist(), owners.tolist(), strict=True)) == expected


def test_words_and_excerpts() -> None:
    assert words("A) Don't\nPANIC_42!") == ["a", "don", "t", "panic_42"]
    assert excerpt("One, two -- three; four.", 1, 2) == "two -- three"
    assert excerpt("One", 3, 2) == ""


@pytest.mark.parametrize(
    "text",
    [
        TRAINS,
        f"Please help me with this: {TRAINS} Think step by step.",
        "**" + TRAINS.upper().replace(" ", "\n> ").replace(".", "") + "**",
    ],
)
def test_question_is_found_in_any_surroundings(text: str) -> None:
    index = SuiteIndex(ITEMS)
    [[match]] = index.check([["something else entirely", text]])
    assert (index.items[match.item].id, match.method, match.score, match.longest) == ("m0", "ngram", 1.0, 19)
    assert match.verdict == "contaminated"
    assert match.text == TRAINS.rstrip(".")
    assert words(match.row_text) == words(TRAINS)


@pytest.mark.parametrize(
    ("item", "row"),
    [
        ("Où est né le célèbre écrivain François-René de Chateaubriand, élève à Combourg ?",) * 2,
        ("中华人民共和国的首都是哪一座城市，它位于哪条河的北边？",) * 2,
        ("日本で一番高い山の名前と、その高さをメートルで答えなさい。",) * 2,
        ("เมืองหลวงของประเทศไทยคือเมืองใด และตั้งอยู่ริมแม่น้ำสายใด",) * 2,
        ("ราชอาณาจักรกัมพูชามีเมืองหลวงชื่อว่าอะไร",) * 2,
        ("हिन्दी में सबसे पहले लिखा गया उपन्यास कौन सा माना जाता है और क्यों?",) * 2,
        ("한국에서 가장 긴 강의 이름은 무엇이며 어느 바다로 흘러 들어가는가?",) * 2,
        (
            "How many ４２ ﬁsh swim in the ﬂat lake near Ⅳ hills?",
            "how many 42 fish swim in the flat lake near IV hills",
        ),
        (
            "Wie groß ist die Straße der alten Maße in der Gasse?",
            "WIE GROSS IST DIE STRASSE DER ALTEN MASSE IN DER GASSE",
        ),
        (
            "the co\u00adopera\u200btion of the eight small towns on the coast",
            "the cooperation of the eight small towns on the coast",
        ),
    ],
)
def test_normal_form_and_script_hide_no_item(item: str, row: str) -> None:
    index = SuiteIndex([SuiteItem("t", "i", item)])
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        text = "…… " + unicodedata.normalize(form, row) + " ……"
        assert [verdict_of(found) for found in index.check([[text]])] == ["contaminated"], form
    assert index.check([["Something else entirely, in words that no item has, and long enough to count."]]) == [[]]


def test_part_of_a_sentence_without_spaces_is_no_match() -> None:
    index = SuiteIndex([SuiteItem("t", "i", "下列关于中国古代历史的说法中，哪一项是不正确的？请说明你的理由。")])
    assert index.check([["下列关于化学反应的说法中，哪一项是对的？"]]) == [[]], "15 characters in a row are few words"


def test_excerpt_of_a_text_without_spaces() -> None:
    text = "问：中国的首都是 Beijing 市。"
    assert words(text) == ["问", "中", "国", "的", "首", "都", "是", "beijing", "市"]
    assert excerpt(text, 5, 3) == "都是 Beijing"


def test_half_a_surrogate_pair_is_a_word_like_any_other() -> None:
    index = SuiteIndex([SuiteItem("t", "i", "one two three four five six seven \ud83d eight nine ten eleven")])
    assert index.check([["one \udc00 two three"]]) == [[]]


def test_part_of_a_question_is_contaminated_or_suspect_by_how_much_it_is() -> None:
    half = " ".join(TRAINS.split()[:14])
    less = " ".join(TRAINS.split()[5:13])
    seven = " ".join(TRAINS.split()[:7])
    assert found(f"show me more: {half} or so it is said by all of them today")[0] == ("m0", "ngram", "contaminated")
    assert found(f"show me more: {less} or so it is said by all of them today") == [("m0", "ngram", "suspect")]
    assert found(f"show me more: {seven} or so it is said by all of them today") == []


def test_ambiguous_questions_need_their_choices() -> None:
    assert found("Which one is true? I do not know.") == []
    assert found("Which one is true?", "A: salt melts ice. B: sugar melts iron.") == [("s2", "ngram", "contaminated")]
    assert found("Not true or false, and true.") == [("l0", "ngram", "contaminated")]


def test_a_few_numbers_are_no_question_unless_they_stand_together() -> None:
    items = [SuiteItem("math", "sum", "−4 + (−3) =", ("−7", "−1", "1", "7"))]
    assert found("He buys 4 bags at $3 each, so 4 * 3 = 12. One is left, 1 of 7, and 7 + 1 is 8.", items=items) == []
    for text in ("-4 + (-3) = ? A) -7 B) -1 C) 1 D) 7", "**-4 + (-3)** Option A: -7, option B: -1, option C: 1, D: 7"):
        assert found(text, items=items) == [("sum", "ngram", "contaminated")]


def test_light_edits_are_near_duplicates() -> None:
    edited = BEES.replace("worker", "some").replace("new", "big")
    assert found(edited)[0][0] == "s0"
    reordered = (
        "After they have found a new field of clover, why do worker bees dance in the dark hive? Explain to a child."
    )
    assert ("s0", "minhash", "suspect") in found(reordered) or found(reordered)[0][2] == "contaminated"
    assert found("Explain to a child how a bicycle stays upright while a man rides it down the hill.") == []


def test_what_many_items_share_says_nothing_but_each_item_is_still_found() -> None:
    frame = "If you follow these instructions do you return to the starting point where you began this morning"
    items = [SuiteItem("walk", f"w{n}", f"{frame} {ALPHABET[n]} {ALPHABET[n + 1]}") for n in range(40)]
    passage = " ".join(f"then {word} went by and nothing came of it for {word}" for word in ALPHABET[50:])
    assert found(f"{frame} as all people does, {passage}", items=items) == []
    hits = found(items[7].text, items=items)
    assert hits[0] == ("w7", "ngram", "contaminated")


def test_every_item_of_a_templated_suite_is_found() -> None:
    draw = random.Random(3)
    items = [
        SuiteItem("t", f"i{n}", " ".join(draw.choices(["not", "true", "and", "false", "or"], k=9))) for n in range(300)
    ]
    index = SuiteIndex(items)
    for item, matches in zip(items, index.check([[f"Evaluate: {item.text} is"] for item in items]), strict=True):
        same = {index.items[m.item].text for m in matches if m.verdict == "contaminated"}
        assert item.text in same


@given(st.lists(st.lists(st.sampled_from(ALPHABET), min_size=8, max_size=30), min_size=1, max_size=8), st.data())
def test_inserted_items_are_found_in_chunks_of_any_size(texts: list[list[str]], data: st.DataObject) -> None:
    items = [SuiteItem("t", str(n), " ".join(text)) for n, text in enumerate(texts)]
    control_items = data.draw(st.sampled_from(items))
    rows = [["zzz yyy xxx " * 5], ["qqq", f"zzz {control_items.text}, yyy"], [control_items.text[::-1]]]
    index = SuiteIndex(items)
    together = index.check(rows)
    assert verdict_of(together[1]) == "contaminated"
    assert control_items.text in {index.items[m.item].text for m in together[1] if m.score == 1.0}
    assert together == [index.check([row])[0] for row in rows]


def test_near_duplicates_are_found_as_often_as_promised() -> None:
    draw = np.random.default_rng(4)
    hits = 0
    for _ in range(200):
        one = np.unique(draw.integers(0, 2**63, 60).astype(np.uint64) << np.uint64(1))
        two = np.unique(np.concatenate([one[:40], draw.integers(0, 2**63, 20).astype(np.uint64) << np.uint64(1)]))
        assert jaccard(one, two) == pytest.approx(0.5)
        hits += bool(NearDuplicates([one], [0], 0.4).find([two]))
        far = np.unique(np.concatenate([one[:6], draw.integers(0, 2**63, 54).astype(np.uint64)]))
        assert not NearDuplicates([one], [0], 0.4).find([far])
    assert hits >= 192  # 0.986 of 200, less three standard errors


def test_neighbours_in_meaning_are_suspect() -> None:
    meaning = np.eye(5, 8, dtype=np.float32)
    index = SuiteIndex(ITEMS, meaning)
    rows = [["Nothing alike in words"], ["Nor here"]]
    embeddings = np.array([meaning[1], np.eye(8, dtype=np.float32)[7]])
    close, far = index.check(rows, embeddings)
    assert [(m.item, m.method, m.score, m.verdict) for m in close] == [(1, "embedding", 1.0, "suspect")]
    assert far == []


def rows_file(folder: Path, name: str = "rows.jsonl") -> Path:
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": [{"role": "user", "content": "Hello there"}], "completion": [{"content": TRAINS}]},
        {"instruction": "Write a poem about the sea and the ships that never came home.", "output": "No."},
        {"conversations": [{"from": "human", "value": f"{BEES} A: cold B: dance"}], "score": 9},
    ]
    file = folder / name
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".gz"):
        file.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".json"):
        file.write_text(json.dumps(rows), encoding="utf-8")
    else:
        file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json"])
def test_datasets_of_every_shape_are_read(tmp_path: Path, name: str) -> None:
    read = list(read_dataset(rows_file(tmp_path, name)))
    assert [own for own, _ in read] == ["a", "1", "2"]
    assert [len(texts) for _, texts in read] == [2, 2, 1]
    assert read[0][1] == ["Hello there", TRAINS]


def test_our_own_dataset_folder_is_read(tmp_path: Path) -> None:
    table = pa.table({"id": ["x"], "prompt": [[{"role": "user", "content": BEES}]], "score": [8.5]})
    pq.write_table(table, tmp_path / "train.parquet")
    assert list(read_dataset(tmp_path)) == [("x", [BEES])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"label": "x"}\n', "row 0: no text in the columns .* its columns are label"),
        ("{nope\n", "rows.jsonl:1: not valid JSON"),
        ("[1]\n", "rows.jsonl:1: a row must be a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ("", "has no rows"),
    ],
)
def test_datasets_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        check_dataset(file, ITEMS, tmp_path / "out")
    with pytest.raises(DataError, match="there is no file"):
        list(read_dataset(tmp_path / "gone.jsonl"))
    with pytest.raises(DataError, match="ends in none of"):
        list(read_dataset(rows_file(tmp_path, "rows.txt")))


@pytest.mark.parametrize("choices", [5, "A or B", {"label": ["A"]}])
def test_choices_that_are_no_list(tmp_path: Path, choices: Any) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"question": TRAINS, "choices": choices}))
    with pytest.raises(DataError, match="row 0: the choices must be a list of texts"):
        read_items(file)
    file.write_text(json.dumps({"question": TRAINS, "choices": None}))
    assert read_items(file) == [SuiteItem("items", "items-00000", TRAINS)]


def test_a_check_that_fails_leaves_an_earlier_one_as_it_was(tmp_path: Path) -> None:
    check_dataset(rows_file(tmp_path), ITEMS, tmp_path / "out")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="has no rows"):
        check_dataset(tmp_path / "empty.jsonl", ITEMS, tmp_path / "out")
    assert RunFolder(tmp_path / "out").verify() == 4


def test_the_check_leaves_a_verdict_for_every_row_and_every_item(tmp_path: Path) -> None:
    done: list[int] = []
    summary = check_dataset(rows_file(tmp_path), ITEMS, tmp_path / "out", progress=done.append)
    assert done == [3]
    assert summary["rows"] == {"clean": 1, "suspect": 0, "contaminated": 2}
    assert summary["tasks"]["science"]["contaminated"] == 1
    verdicts = pq.read_table(tmp_path / "out" / "verdicts.parquet").to_pylist()
    assert [(row["id"], row["verdict"], row["item"]) for row in verdicts] == [
        ("a", "contaminated", "m0"), ("1", "clean", None), ("2", "contaminated", "s0"),
    ]  # fmt: skip
    assert verdicts[0]["text"] == TRAINS.rstrip(".")
    assert read_items_found(tmp_path / "out") == {
        ("math", "m0"): "contaminated", ("science", "s0"): "contaminated", ("science", "s1"): "clean",
        ("science", "s2"): "clean", ("logic", "l0"): "clean",
    }  # fmt: skip
    page = (tmp_path / "out" / "contamination.md").read_text()
    assert "2 rows contaminated, 0 suspect" in page
    assert TRAINS.rstrip(".") in page
    assert RunFolder(tmp_path / "out").verify() == 4
    with pytest.raises(DataError, match="holds no contamination check"):
        read_items_found(tmp_path)


def run_cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = tmp_path / "bench"
    context.mkdir()
    (context / "tiny.jsonl").write_text(json.dumps({"id": 7, "question": TRAINS, "choices": ["x"]}) + "\n")
    rows = rows_file(tmp_path)
    assert run_cli("contamination", rows, context, "--output", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["tiny"]["contaminated"] == 1
    assert run_cli("contamination", rows, tmp_path / "gone", "--output", tmp_path / "out") == 2
    assert "there is no file" in capsys.readouterr().err


def test_real_items_are_all_found_in_their_own_words(shared_data: Path) -> None:
    names = ["gsm8k_test.jsonl.gz", "humaneval.jsonl", "mbpp_test500.jsonl", "arc_challenge_test.jsonl.gz"]
    items = [item for name in names for item in read_items(shared_data / "bench" / name)]
    index = SuiteIndex(items)
    rows = [["\n".join([item.text, *item.choices])] for item in items]
    for item, matches in zip(items, index.check(rows), strict=True):
        assert item.text in {index.items[m.item].text for m in matches if m.verdict == "contaminated"}
