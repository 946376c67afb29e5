"""The words by which texts are reworded, in lower case. One that is missing here costs a miss and nothing else, but for
``ABOUT_TEXT``: there it costs safety.
"""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


OPENERS = _set("""
what how why when where who which whose whom is are was were am do does did can could would should will have has had
what's how's why's when's where's who's isn't aren't wasn't weren't don't doesn't didn't can't couldn't won't wouldn't
shouldn't haven't hasn't hadn't whats hows wheres
""")
"""What a question begins with."""

ORDERS_TOO = _set("do have don't haven't will can")
SUBJECTS = _set("i you we they he she the a an my your our his her their this that these those there people")
"""Of the openers, those that an order may begin with; and what follows them in a question."""

ELSEWHERE_TOO = _set("is was were am do has had will i")
ENGLISH_SUBJECTS = _set("i you we they it the my your this that there")
"""Of the openers, those that are words of another language in Latin script; and what makes English of them."""

INSTRUCTIONS = _set("""
tell give show explain describe list find track book cancel remind send make add remove create compare calculate
recommend suggest help outline provide check plan convert compute solve choose estimate discuss analyze analyse
identify rank generate design draft prepare organize organise schedule propose review evaluate implement refactor
debug draw order cook build update delete install configure name walk
""")
"""What an instruction begins with, where no  of anything does."""

STARTERS = (
    OPENERS
    | INSTRUCTIONS
    | _set("i i'm i've i'll i'd my the there if please to for in on at from with by after before write use")
)
"""Words that have a capital only because a sentence begins with them: their case is folded there."""

FIRST_PERSON = _set("i i'm i've i'll i'd")

NAMES_IN_ANY_CASE = _set("""
monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays
fridays saturdays sundays january february april june july september october november december english french german
spanish italian portuguese dutch swedish norwegian russian ukrainian arabic hebrew hindi japanese korean uk usa eu nhs
pdf html css json xml csv sql http https url gps vat faq
""")
"""Names that are nothing else in lower case, wherever they stand. Not "may", "polish", "us", "it"."""

FUNCTION_WORDS = _set("""
a an the this that these those i me my mine myself we us our ours you your yours he him his she her hers it its they
them their theirs am is are was were be been being do does did doing done have has had having will would shall should
can could may might must ought and or but if then so as of at for with about there here what which who whom whose when
where why how please thanks thank hi hello hey sorry just really very quite too also well ok okay um uh er let get got
""")
"""Words that carry little alone. To the normal form they count like all others."""

WORKS_ON_TEXT = _set("""
translate translates translated translation translations spell spelled spelling pronounce rewrite rephrase paraphrase
proofread repeat echo transcribe reverse reversed uppercase lowercase capitalize capitalise encode decode rot13 base64
count counting characters letters syllables vowels palindrome anagram tokenize tokenise quote punctuation typo typos
""")
"""Words of who has something done with a text: then each character of it counts."""

ABOUT_TEXT = WORKS_ON_TEXT | _set("""
say says said saying word words wording phrase phrases translate translation translated translates spell spelling
spelled mean means meaning meant define definition pronounce pronunciation synonym synonyms antonym rhyme rhymes
letter letters character characters char chars count counting sentence sentences repeat reply respond response rewrite
rephrase paraphrase edit correct correction grammar grammatical proofread typo typos echo print output input quote
quoted quotes title titled headline caption text texts message messages strings regex regexp pattern glob unicode
ascii utf-8 encode encoding decode encoded hash sha256 md5 base64 rot13 cipher encrypt decrypt token tokens tokenize
tokenise parse parser reverse reversed palindrome anagram capitalize capitalise capitalized capitalised capitalization
capitalisation uppercase lowercase case casing punctuation apostrophe apostrophes comma commas hyphen whitespace space
spaces blank complete continue finish fill sentiment tone polite politeness rude formal informal tweet summarize
summarise summary classify extract label lyric lyrics song sing sang poem verse album film movie novel chapter begins
ends starts factorial bracket prefix suffix syllable syllables vowel vowels consonant consonants abbreviation acronym
stand stands slang idiom expression password username command query script code function variable emoji emojis keyword
keywords write wrote written writes type typed transcribe dictate verb noun adjective plural singular tense
""")
"""Words of who speaks about a text rather than in it. Then a "please" may be what is spoken about, so nothing of it is
 differently."""

ABOUT_WIDTH = (
    "角",
    "宽",
    "幅",
    "空格",
    "空白",
    "字符",
    "文字",
    "スペース",
    "字元",
    "编码",
    "編碼",
    "unicode",
    "띄어쓰기",
    "공백",
)
"""The same in scripts without capitals: the width of characters and spaces."""

_VERBS = ("do", "does", "did", "is", "are", "was", "were", "could", "would", "should", "has", "have", "had")

CONTRACTIONS = {
    **{f"{verb}n't": f"{verb} not" for verb in (*_VERBS, "must", "need")},
    **{f"{verb}nt": f"{verb} not" for verb in _VERBS if verb not in ("are", "were", "had")},
    **{f"{word}'s": f"{word} is" for word in ("what", "where", "who", "when", "how", "why")},
    **{f"{word}'s": f"{word} is" for word in ("it", "that", "there", "here", "he", "she")},
    **{f"{word}'re": f"{word} are" for word in ("we", "you", "they", "what")},
    **{f"{word}'ve": f"{word} have" for word in ("i", "we", "you", "they")},
    **{f"{word}'ll": f"{word} will" for word in ("i", "we", "you", "they", "he", "she", "it", "that")},
    "can't": "cannot",
    "cant": "cannot",
    "won't": "will not",
    "i'm": "i am",
    "whats": "what is",
    "wheres": "where is",
}
"""Not "'d", which is "had" or "would", nor "cannot" as "can not", which is a choice not to."""
