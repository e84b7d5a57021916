"""Captions as the words that BLEU, ROUGE and CIDEr count: those of Stanford's PTBTokenizer 3.4.1, without Java.

The official evaluation of captions (`pycocoevalcap/tokenizer/ptbtokenizer.py`) runs that tokenizer, in lower case, and leaves
out punctuation. These are its rules as far as captions in English need them.
"""

from __future__ import annotations

import re

# What the official code leaves out. Brackets stay: it spells them in capitals here, and the tokenizer in lower case.
_PUNCTUATION = {"''", "'", "``", "`", "-LRB-", "-RRB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}

_SPELLED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPELLED |= {"£": "#", "€": "$", "&amp;": "&", "…": "...", "–": "--", "—": "--", "’": "'"}

# Words that keep their full stop, ...
_ABBREVIATIONS = """
adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bancorp bhd bldg blvd brig bros calif capt cf cie cmdr co
col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs hon
inc ind insp intl invt jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs
ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof pte ptes pty ptys pvt rd rep reps rev rt
sen sens sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu tue tues univ va vs vt wed wis wisc wm wyo
"""
# ... and those that keep it before a number.
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"

_LETTER = r"[^\W\d_]"
_APOSTROPHE = "['’]"
_ABBREVIATION = rf"(?i:{'|'.join(_ABBREVIATIONS.split())}|(?:{'|'.join(_BEFORE_NUMBERS.split())})(?=\.\s*\d))"

# In order: the first rule that fits decides.
_RULES = (
    # Addresses, and names of the net. (Their limits keep long texts without spaces from taking long.)
    r"(?:https?|ftp)://[^\s<>|\"]+[^\s<>|.!?,;:\"'()\[\]{}-]",
    rf"(?:www\.)?(?:[^\s\"`'<>|.!?,;:/$()\[\]{{}}]{{1,63}}\.){{1,9}}(?:com|net|org|edu)(?!{_LETTER})",
    r"[\w.%+-]{1,64}@[\w.-]+\w",
    r"</?[A-Za-z!?][^<>]*>|&amp;",
    r"[#@][A-Za-z_]\w*",
    r"[A-Z]+(?:[+&][A-Z]+)+(?![a-z])|[Cc]\+\+|[CF]\#",  # AT&T
    # Two words in one: cannot, gonna, gotta, lemme, y'all, 'tis, d'ye.
    r"(?i:can(?=not\b)|(?<=can)not\b|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:gim|lem)(?=me\b))",
    rf"(?i:y{_APOSTROPHE}(?=alls?\b)|{_APOSTROPHE}t(?=(?:is|was)\b)|d{_APOSTROPHE}(?=ye\b))",
    # Apostrophes that belong to a word: '90s, 'em, rock 'n' roll, o'clock, O'Brien, Shi'ite.
    rf"{_APOSTROPHE}(?:[2-9]0s|\d\d)\b|(?i:{_APOSTROPHE}(?:em|cause|til|till)(?!{_LETTER})|{_APOSTROPHE}n{_APOSTROPHE})",
    rf"(?i:o{_APOSTROPHE}clock|ma{_APOSTROPHE}am|cont{_APOSTROPHE}d)\b",
    rf"[A-HJ-XZn]{_APOSTROPHE}{_LETTER}{{2,}}|{_LETTER}+[aeiouyAEIOUY]{_APOSTROPHE}[aeiouA-Z]{_LETTER}*",
    # Others begin a word: do n't, it 's.
    rf"(?i:[a-z]*[a-mo-z](?=n{_APOSTROPHE}t\b)|n{_APOSTROPHE}t\b|{_APOSTROPHE}(?:s|m|d|re|ve|ll)\b)",
    # Numbers. "10:30am" is two words, "3pm" is one.
    r"\d{1,4}/\d{1,4}(?![\w/])",
    r"[+-]?(?:\d+(?:[.,:]\d+)+|\.\d+)(?:-[^\W_]+)+",
    r"(?:(?<!\w)[+-])?(?:\d+(?:[.,:]\d+)+|(?:\.\d+)+)",
    # Words with slashes or hyphens.
    r"[A-Za-z\d]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z\d]+(?:-[A-Za-z]+){0,2}){1,2}",
    r"[^\W_]+(?:[.,][^\W_]+)*(?:-[^\W_]+)+",
    # A full stop that belongs to a word.
    rf"(?<![\w-])(?:[A-Za-z](?:\.[A-Za-z])*|{_ABBREVIATION})\.(?!{_LETTER})",
    rf"{_LETTER}[^\W_]*(?:[.!?]{_LETTER}[^\W_]*)*",  # also "dog.It", as people write it
    r"(?:(?<!\w)[+-])?\d[^\W_]*",
    # Faces and other marks.
    r"[<>]?[:;=][-o*']?[()DPdpO\\:{@|\[\]](?![A-Za-z])",
    r"\.{3,5}|(?:\. ){2,4}\.|[?!]+|-{2,}|\*+|``|''",
    r"\S",
)
_TOKEN = re.compile("|".join(f"(?:{rule})" for rule in _RULES))


def caption_words(caption: str) -> list[str]:
    """The words of a caption, in lower case and without punctuation: "A man's dog, e.g." -> a, man, 's, dog, e.g.

    Equal to the original for captions as in COCO; it differs in technical texts (paths, numbers of versions).
    """
    words = (_spelled(token) for token in _TOKEN.findall(caption))
    return [word for word in words if word not in _PUNCTUATION and word.strip("\"'`“”‘’")]


def _spelled(token: str) -> str:
    """A token as the original writes it."""
    if len(token) > 1 and set(token) == {"-"}:
        return "--"
    if len(token) < 4:  # a bracket alone, or in a face such as ":-)"
        return "".join(_SPELLED.get(letter, letter) for letter in token.lower())
    return _SPELLED.get(token, token.lower())
