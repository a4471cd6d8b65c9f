"""Check IFEval's 25 kinds of verifiable instructions (Zhou et al. 2023, arXiv 2311.07911) by programs.

The programs follow the paper's table and the published rows. They judge as the benchmark's own program does, quirks
included. A bullet is a line that begins with * or -. A paragraph is the text between two ***. A forbidden word is
searched for as a pattern.

The benchmark uses trained models for three kinds, and this module uses rules. Sentences are split at their ends. Words
in capitals are runs between spaces and marks. The language follows from the script, and from the commonest words where
several languages share it. `gra.evaluation` prefers lm-eval's program where it works.

`gra.checks.format` has checks of this project, which follow a reader more closely. No text raises, and each kind takes
time proportional to its length. Raise `VERIFIABLE_VERSION` whenever a kind judges differently than before.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

VERIFIABLE_VERSION = 1
Instruction = Mapping[str, Any]  # "id", and the arguments of its kind
_KINDS: dict[str, Callable[..., bool]] = {}
_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]*_]*(?:\s+|(?<=[。！？]))|\n{2,}")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])\.(?=\s)")
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def follows(instruction: Instruction, answer: str) -> bool:
    """Decide whether the answer follows one instruction; an empty answer follows none.

    Raises:
        KeyError: for a kind that IFEval does not have.
    """
    given = {key: value for key, value in instruction.items() if key != "id"}
    return bool(answer.strip()) and _KINDS[instruction["id"]](answer, **given)


def broken(instructions: Sequence[Instruction], answer: str) -> list[str]:
    """List the ids of the instructions that the answer does not follow."""
    return [instruction["id"] for instruction in instructions if not follows(instruction, answer)]


def loosened(answer: str) -> list[str]:
    """List the readings of an answer for "loose" accuracy.

    They are the answer, without its first line, without its last, without both, and each of these without asterisks.
    """
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [text.replace("*", "") for text in cut]


def known() -> tuple[str, ...]:
    """List the ids of all kinds."""
    return tuple(_KINDS)


def _kind(name: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    def register(function: Callable[..., bool]) -> Callable[..., bool]:
        _KINDS[name] = function
        return function

    return register


def _compared(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _pattern(text: str) -> str:
    """Return a keyword as the pattern that it is in the benchmark; escape it where it is no valid pattern."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return re.escape(text)
    return text


# --- words and letters --------------------------------------------------------------------------------------


@_kind("keywords:existence")
def _keywords(answer: str, keywords: list[str]) -> bool:
    return all(re.search(_pattern(word), answer, re.IGNORECASE) for word in keywords)


@_kind("keywords:frequency")
def _keyword_often(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compared(len(re.findall(_pattern(keyword.strip()), answer, re.IGNORECASE)), relation, frequency)


@_kind("keywords:forbidden_words")
def _forbidden(answer: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{_pattern(word)}\b", answer, re.IGNORECASE) for word in forbidden_words)


@_kind("keywords:letter_frequency")
def _letter_often(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compared(answer.lower().count(letter.strip().lower()), let_relation, let_frequency)


@_kind("change_case:english_lowercase")
def _lowercase(answer: str) -> bool:
    return answer.islower() and _language(answer) == "en"


@_kind("change_case:english_capital")
def _uppercase(answer: str) -> bool:
    return answer.isupper() and _language(answer) == "en"


@_kind("change_case:capital_word_frequency")
def _capital_words(answer: str, capital_frequency: int, capital_relation: str) -> bool:
    words = re.findall(r"(?:[$€£%&+/-]{0,20}+\w)++[\w'.-]*+", answer)
    return _compared(sum(word.isupper() for word in words), capital_relation, capital_frequency)


@_kind("punctuation:no_comma")
def _no_comma(answer: str) -> bool:
    return "," not in answer


# --- length -------------------------------------------------------------------------------------------------


@_kind("length_constraints:number_words")
def _words(answer: str, num_words: int, relation: str) -> bool:
    return _compared(len(re.findall(r"\w+", answer)), relation, num_words)


@_kind("length_constraints:number_sentences")
def _sentences(answer: str, num_sentences: int, relation: str) -> bool:
    pieces = _SENTENCE.split(_ABBREVIATION.sub(lambda found: found[0].replace(".", "․"), answer))
    return _compared(sum(any(c.isalnum() for c in piece) for piece in pieces), relation, num_sentences)


@_kind("length_constraints:number_paragraphs")
def _paragraphs(answer: str, num_paragraphs: int) -> bool:
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", answer)]
    inner = parts[1:-1] if len(parts) > 1 else []
    return all(inner) and sum(parts) == num_paragraphs


@_kind("length_constraints:nth_paragraph_first_word")
def _first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = answer.split("\n\n")
    filled = sum(bool(part.strip()) for part in parts)
    if filled != num_paragraphs or nth_paragraph > filled or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


# --- content and layout ------------------------------------------------------------------------------


@_kind("detectable_content:number_placeholders")
def _placeholders(answer: str, num_placeholders: int) -> bool:
    # The pattern \[.*?\] of the benchmark, without a search to the end of the line from every bracket.
    return sum(_bracketed(line) for line in answer.split("\n")) >= num_placeholders


def _bracketed(line: str) -> int:
    count, place = 0, line.find("[")
    while place >= 0 and (end := line.find("]", place)) >= 0:
        count, place = count + 1, line.find("[", end)
    return count


@_kind("detectable_content:postscript")
def _postscript(answer: str, postscript_marker: str) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = postscript_marker.strip()
    return re.search(patterns.get(marker) or _pattern(marker.lower()), answer.lower()) is not None


@_kind("detectable_format:title")
def _title(answer: str) -> bool:
    # The pattern <<[^\n]+>> of the benchmark reaches from the first << of a line to its last >>.
    spans = [(line, line.find("<<"), line.rfind(">>")) for line in answer.split("\n")]
    titles = [line[start : end + 2] for line, start, end in spans if start >= 0 and start + 3 <= end]
    return any(title.lstrip("<").rstrip(">").strip() for title in titles)


@_kind("detectable_format:number_bullet_lists")
def _bullets(answer: str, num_bullets: int) -> bool:
    starred = re.findall(r"^[^\S\n]*+\*[^*].*$", answer, re.MULTILINE)
    return len(starred) + len(re.findall(r"^[^\S\n]*+-.*$", answer, re.MULTILINE)) == num_bullets


@_kind("detectable_format:number_highlighted_sections")
def _highlights(answer: str, num_highlights: int) -> bool:
    single = [part.strip("*").strip() for part in re.findall(r"\*[^\n*]*\*", answer)]
    double = [part[2:-2].strip() for part in re.findall(r"\*\*[^\n*]*\*\*", answer)]
    return sum(map(bool, single + double)) >= num_highlights


@_kind("detectable_format:multiple_sections")
def _sections(answer: str, num_sections: int, section_spliter: str) -> bool:
    return len(re.split(rf"\s?{_pattern(section_spliter.strip())}\s?\d+\s?", answer)) - 1 >= num_sections


@_kind("detectable_format:json_format")
def _json(answer: str) -> bool:
    text = re.sub(r"^```(?:json|Json|JSON)?", "", answer.strip()).removesuffix("```").strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@_kind("detectable_format:constrained_response")
def _constrained(answer: str) -> bool:
    return any(option in answer for option in _OPTIONS)


@_kind("combination:two_responses")
def _two_responses(answer: str) -> bool:
    parts = [part.strip() for part in answer.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


@_kind("combination:repeat_prompt")
def _repeated(answer: str, prompt_to_repeat: str) -> bool:
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


@_kind("startend:end_checker")
def _ending(answer: str, end_phrase: str) -> bool:
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@_kind("startend:quotation")
def _quotation(answer: str) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


# --- the language -------------------------------------------------------------------------------------------

# Scripts that one language of IFEval uses, by the first word of their letters' Unicode names.
_SCRIPTS = {
    "KANNADA": "kn", "HANGUL": "ko", "GURMUKHI": "pa", "GUJARATI": "gu", "TELUGU": "te", "TAMIL": "ta", "THAI": "th",
    "BENGALI": "bn", "GREEK": "el", "HEBREW": "he", "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh",
}  # fmt: skip
# Languages that share a script, with the commonest words of each.
_COMMON = {
    "LATIN": {
        "en": "the and of to in is that it for you with are this on be as was have not your or from at we can will i a",
        "de": "der die das und ist nicht ich ein eine zu den mit von für auf sich es im dem auch sie wir werden",
        "it": "il di che è la e un per non una sono con del della i le si da nel come alla più gli questo",
        "pt": "o de que é do da e um para não uma os com em no na se por mais as dos como ao você seu sua são",
        "vi": "và của là có không một cho được những trong với các người này tôi bạn để về như đã khi sẽ",
        "fi": "ja on ei se että en hän oli mutta ovat kun myös tai jos voi olla niin kuin sinun minun tämä",
        "sw": "na ya wa kwa ni za katika la cha hii kama yako kuwa si lakini au hiyo sana wako yangu mimi",
        "es": "el de que y en los se del las por un para con no una su al lo como más pero sus le ya",
        "fr": "le de et les des est un une du que pour dans qui sur pas plus avec ne vous je ce il sont au",
    },
    "CYRILLIC": {
        "ru": "и в не на что я с он как это по но из за то все она так его ты мы бы вы для или быть чтобы",
        "bg": "и в на да се от за е не с че по са като със но това ще ли или беше може към при как съм",
        "uk": "і в не на що я з він як це по але за то всі вона так його та для або бути щоб є",
    },
    "ARABIC": {
        "ar": "في من على أن إلى هذا هذه التي الذي عن مع كان لا ما هو هي كل ذلك بعد أو قد لم",
        "fa": "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز می شود های من شما",
        "ur": "کے کی میں اور ہے سے کا کو ہیں یہ نے پر کہ ایک بھی اس ہو نہیں آپ تھا لیے",
    },
    "DEVANAGARI": {
        "hi": "के में की है और से का को पर यह हैं कि एक नहीं भी इस ने लिए हो था आप मैं तो",
        "mr": "आहे आणि या तो ते आहेत मी हे की होते नाही एक तुम्ही करण्यासाठी मध्ये साठी होता असे त्या",
        "ne": "छ र को मा हो यो पनि छन् लाई गर्न भने एक तपाईं म हामी गरेको थियो गर्नुहोस् लागि हरू",
    },
}  # fmt: skip


@_kind("language:response_language")
def _in_language(answer: str, language: str) -> bool:
    return _language(answer) in (language, "")  # the benchmark passes an answer without letters


def _language(text: str) -> str:
    """Return the language of a text: by the script of most letters, then by common words; "" for no letters."""
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            scripts[unicodedata.name(character, "?").split()[0]] += count
    if not scripts:
        return ""
    script = scripts.most_common(1)[0][0]
    if script == "CJK" and scripts["HIRAGANA"] + scripts["KATAKANA"]:
        return "ja"
    if script not in _COMMON:
        return _SCRIPTS.get(script, "unknown")
    words = Counter(word.strip(".,;:!?।،؟\"'()*") for word in text.lower().split())
    counts = {language: sum(words[word] for word in set(own.split())) for language, own in _COMMON[script].items()}
    best = max(counts, key=lambda language: counts[language])
    # A few words may hold no common one; the first of each script is the likeliest.
    return best if counts[best] else next(iter(_COMMON[script]))
