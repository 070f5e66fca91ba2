"""Sentences of many languages, what the normaliser makes of them, and how many words Unicode's rules find (UAX 29).

`python -m tests.asr.scoring.sentences` writes docs/scripts.md.
"""

import unicodedata
from pathlib import Path

from speechssl.asr.scoring.normalise import normalise

PAGE = Path(__file__).parents[3] / "docs/scripts.md"
HYPHEN = "a hyphen joins here, and parts there"
UNSPACED = "no blanks between words: go by CER; there it depends on dictionaries or is one letter a word"
SENTENCES: tuple[tuple[str, str, str], ...] = (  # language, sentence, why the count of words differs from UAX 29
    ("af", "Ons het ’n hond, nè?", ""),
    ("am", "ሰላም፡ለዓለም። ደህና ነህ?", ""),
    ("ar", "هل قَرَأْتَ الكِتــاب؟ نعم!", ""),
    ("az", "İSTİ QIŞ GƏLDİ.", ""),
    ("be", "Сям’я жыве ў вёсцы.", ""),
    ("bn", "আমি আজ বাড়ি যাব। উত্‍সব!", ""),
    ("bo", "བོད་ཡིག་ཡག་པོ་འདུག།", ""),
    ("ca", "Un dia excel·lent: l’alba!", ""),
    ("chr", "ᎣᏏᏲ, ᏙᎯᏧ?", ""),
    ("cs", "Prší-li, zůstanu doma.", HYPHEN),
    ("de", "Die Straße—groß, breit—ist 3,5 km lang.", "3,5 is one word there, two here: two are spoken"),
    ("el", "Ο ΜΙΚΡΟΣ ΔΡΟΜΟΣ· ΠΟΥ ΠΑΣ;", ""),
    ("en", "Don’t stop—the train’s half-full.", HYPHEN),
    ("fa", "من می‌خواهم بروم؛ شما؟", ""),
    ("fi", "EU:ssa on 27 jäsentä.", ""),
    ("fr", "L’eau est-elle froide ?", HYPHEN),
    ("ha", "'Yan makaranta suna karatu.", ""),
    ("haw", "Aia ka ‘ohana ma Hawai'i.", ""),
    ("he", 'צה״ל, חז"ל, ג׳ירפה וסנדוויץ׳.', ""),
    ("hi", "क्‍या आप हिन्दी-उर्दू जानते हैं?", HYPHEN),
    ("hy", "Ինչո՞ւ ես տխուր, ընկե՛ր։", ""),
    ("ja", "今日は、いい天気ですね。", UNSPACED),
    ("ka", "ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ ლამაზია.", ""),
    ("kk-Latn", "QYZYLORDA İRİ QALA.", ""),
    ("km", "ខ្ញុំទៅផ្សារ។", UNSPACED),
    ("ko", "오늘은 날씨가 좋아요.", ""),
    ("ks", "أسۍ چھِ گرٕ گژھان۔", ""),
    ("lo", "ຂ້ອຍໄປຕະຫຼາດ.", UNSPACED),
    ("lt", "Ėjau į mišką, o ten – grybų!", ""),
    ("ml", "അവന്‍ വന്നു. അവൾ പോയി.", ""),
    ("mn", "Сайн байна уу?", ""),
    ("moh", "Kaná:ta nikawennò:ten.", ""),
    ("mt", "X’għamilt ta’ filgħodu?", ""),
    ("my", "ကျွန်တော် ဈေးသွားမယ်။", UNSPACED),
    ("naq", "!Gâi ||goas, tita ge Ju|’hoan.", "clicks typed as ! and | are letters here; there they part words"),
    ("nv", "T’áá’ ákót’é.", ""),
    ("qu", "Ñuqa mikhuni t'antata.", ""),
    ("ru", "За́мок кто-то закрыл — вот!", HYPHEN),
    ("si", "ශ්‍රී ලංකාව ලස්සනයි.", ""),
    ("sv", "S:t Eriks bro i USA:s stil.", ""),
    ("sw", "Ng’ombe wangu yuko wapi?", ""),
    ("ta", "நான் வீட்டிற்குச் செல்கிறேன்.", ""),
    ("th", "ผมไปตลาดครับ", UNSPACED),
    ("ti", "ከመይ፡ኣለኻ?", ""),
    ("tr", "IŞIK İZMİR'de sönüyor.", ""),
    ("uk", "П’ять м'ячів і комп’ютер.", ""),
    ("ur", "آپ کیسے ہیں؟ ٹھیک ہوں۔", ""),
    ("uz", "O‘zbek tog' yo`li—chiroyli.", "a grave accent typed for the letter parts words there"),
    ("vi", "Tôi đang học tiếng Việt.", ""),
    ("yi", "ס'איז אַ שיינער טאָג, פֿון ייִדיש.", ""),
    ("yo", "Ẹ káàárọ̀, ṣé dáadáa ni?", ""),
    ("zh", "今天天气很好，一起去吧！", UNSPACED),
)


def unicode_words(text: str) -> int:
    """Count the segments between word breaks of UAX 29 that hold a letter or a digit."""
    from uniseg.wordbreak import words

    return sum(any(unicodedata.category(sign)[0] in "LN" for sign in word) for word in words(text))


def page() -> str:
    """Return docs/scripts.md."""
    head = f"""# Scripts and languages

What `score --normaliser plain` makes of a sentence in {len(SENTENCES)} languages, and `text.case=lower` with
`text.punctuation=remove` likewise, but for vowel points and stress marks, which they leave. The rule is in
`speechssl/text/words.py`. `words` counts what lies between blanks afterwards, `UAX 29` the words between Unicode's word
breaks in the sentence as it came (uniseg, which has no dictionaries). Where they differ, the last column says why. The
page is written by `python -m tests.asr.scoring.sentences`, and a test compares.

Differences that no sentence here shows: a full stop without a blank (`U.S.`, `example.com`), which often ends a
sentence, and the colon, in languages that do not spell with it, part words here and not there. The Katakana dot, slash
and underscore part words.

German `ß` stays and is not `ss`, Cherokee gets its small letters and Georgian its usual ones. A joiner stays between
two letters of a script that it shapes, and vanishes elsewhere; a zero-width space vanishes. Without a language, an
apostrophe at either end of a word is a quotation mark, and a capital I is not the Turkish one. Vowel points vanish as
in Arabic and Hebrew, but with language `yi` or `ks`: Yiddish and Kashmiri spell with them. Not covered: the Yiddish
ligatures `װ ױ ײ` are other letters than `וו וי יי`, as for Unicode; Ladino and other languages that may be pointed
lose their points.

| language | sentence | plain | words | UAX 29 | why |
|---|---|---|---|---|---|
"""
    rows = []
    for language, sentence, why in SENTENCES:
        plain = normalise(sentence, "plain", language)
        cells = (language, sentence, plain, str(len(plain.split())), str(unicode_words(sentence)), why)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return head + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
