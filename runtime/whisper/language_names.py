"""English names of the languages that Whisper was trained on, by the code in its `<|xx|>` tokens.

A checkpoint need not have all of them: `WhisperTokens.languages`, read from its files, tells which it has.
"""

import re

LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")

# "code:name"; other common names follow the first, and blanks are written as underscores.
_TABLE = """
en:english zh:chinese de:german es:spanish ru:russian ko:korean fr:french ja:japanese pt:portuguese
tr:turkish pl:polish ca:catalan nl:dutch ar:arabic sv:swedish it:italian id:indonesian hi:hindi fi:finnish
vi:vietnamese he:hebrew uk:ukrainian el:greek ms:malay cs:czech ro:romanian da:danish hu:hungarian ta:tamil
no:norwegian th:thai ur:urdu hr:croatian bg:bulgarian lt:lithuanian la:latin mi:maori ml:malayalam cy:welsh
sk:slovak te:telugu fa:persian lv:latvian bn:bengali sr:serbian az:azerbaijani sl:slovenian kn:kannada
et:estonian mk:macedonian br:breton eu:basque is:icelandic hy:armenian ne:nepali mn:mongolian bs:bosnian
kk:kazakh sq:albanian sw:swahili gl:galician mr:marathi pa:punjabi si:sinhala km:khmer sn:shona yo:yoruba
so:somali af:afrikaans oc:occitan ka:georgian be:belarusian tg:tajik sd:sindhi gu:gujarati am:amharic
yi:yiddish lo:lao uz:uzbek fo:faroese ht:haitian_creole ps:pashto tk:turkmen nn:nynorsk mt:maltese
sa:sanskrit lb:luxembourgish my:myanmar bo:tibetan tl:tagalog mg:malagasy as:assamese tt:tatar haw:hawaiian
ln:lingala ha:hausa ba:bashkir jw:javanese su:sundanese yue:cantonese my:burmese ca:valencian nl:flemish
ht:haitian lb:letzeburgesch ps:pushto pa:panjabi ro:moldavian ro:moldovan si:sinhalese es:castilian
zh:mandarin
"""

_PAIRS = [
    (code, name.replace("_", " ")) for code, _, name in (entry.partition(":") for entry in _TABLE.split())
]

# English name, in lower case -> code; several names may share a code.
CODE_OF_NAME = {name: code for code, name in _PAIRS}

# Code -> its first English name.
NAME_OF_CODE = dict(reversed(_PAIRS))


# Codes that others use for languages of the table: older ones, and those of ISO 639 where Whisper has its
# own.
_OTHER_CODES = {
    "iw": "he",
    "in": "id",
    "ji": "yi",
    "jv": "jw",
    "nb": "no",
    "fil": "tl",
    "cmn": "zh",
    "mo": "ro",
}
_WITH_REGION = re.compile(r"([a-z]{2,3})[-_][a-z0-9_-]+")
AUTO = "auto"


def language_code(language: str) -> str:
    """Return the code of a language; unknown spellings come back in lower case.

    Args:
        language: A code ("en"), one with a region ("en-US", "pt_BR"), an English name ("English") or a token
            ("<|en|>").
    """
    spelling = (
        " ".join(language.lower().replace("_", " ").split()) if " " in language else language.strip().lower()
    )
    if match := LANGUAGE_TOKEN.fullmatch(spelling):
        return match[1]
    spelling = CODE_OF_NAME.get(spelling.replace("_", " "), spelling)
    if (match := _WITH_REGION.fullmatch(spelling)) and match[1] in {*NAME_OF_CODE, *_OTHER_CODES}:
        spelling = match[1]
    return _OTHER_CODES.get(spelling, spelling)


def nearest_language(language: str) -> str:
    """Return " (did you mean turkish?)" for a name that is nearly one, else nothing."""
    import difflib  # wanted where something went wrong alone

    found = difflib.get_close_matches(
        language.strip().lower(), [*CODE_OF_NAME, *NAME_OF_CODE], n=1, cutoff=0.7
    )
    return f" (did you mean {found[0]}?)" if found else ""
