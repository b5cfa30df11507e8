"""The languages that Whisper was trained on, by the code in its `<|xx|>` tokens: their names and other codes.

A checkpoint need not have all of them: `WhisperTokens.languages`, read from its files, tells which it has.
"""

import re
import unicodedata
from typing import Final

from runtime.errors import SettingsError

LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")

# "code:name" in English; other common names follow the first, and blanks are written as underscores.
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

# What speakers call their language.
_OWN_NAMES = """
zh:中文 zh:汉语 zh:漢語 zh:普通话 zh:國語 de:deutsch es:español ru:русский ko:한국어 fr:français ja:日本語
pt:português tr:türkçe pl:polski ca:català nl:nederlands ar:العربية sv:svenska it:italiano
id:bahasa_indonesia hi:हिन्दी hi:हिंदी fi:suomi vi:tiếng_việt he:עברית uk:українська el:ελληνικά
ms:bahasa_melayu cs:čeština ro:română da:dansk hu:magyar ta:தமிழ் no:norsk no:bokmål th:ไทย ur:اردو
hr:hrvatski bg:български lt:lietuvių la:latina mi:te_reo_māori ml:മലയാളം cy:cymraeg sk:slovenčina te:తెలుగు
fa:فارسی lv:latviešu bn:বাংলা sr:српски sr:srpski az:azərbaycan sl:slovenščina kn:ಕನ್ನಡ et:eesti
mk:македонски br:brezhoneg eu:euskara is:íslenska hy:հայերեն ne:नेपाली mn:монгол bs:bosanski kk:қазақ
sq:shqip sw:kiswahili gl:galego mr:मराठी pa:ਪੰਜਾਬੀ si:සිංහල km:ខ្មែរ sn:chishona so:soomaali ka:ქართული
be:беларуская tg:тоҷикӣ sd:سنڌي gu:ગુજરાતી am:አማርኛ yi:ייִדיש lo:ລາວ uz:oʻzbek fo:føroyskt
ht:kreyòl_ayisyen ps:پښتو tk:türkmençe mt:malti sa:संस्कृतम् lb:lëtzebuergesch my:မြန်မာ tl:filipino
as:অসমীয়া tt:татар ba:башҡорт jw:basa_jawa su:basa_sunda yue:粵語 yue:粤语 yue:廣東話 yue:广东话
"""

# Codes that others use: those of ISO 639-2 and 639-3, older ones, and those where Whisper has its own.
_OTHER_CODES = """
en:eng zh:zho zh:chi zh:cmn de:deu de:ger es:spa ru:rus ko:kor fr:fra fr:fre ja:jpn pt:por tr:tur pl:pol
ca:cat nl:nld nl:dut ar:ara ar:arb sv:swe it:ita id:ind id:in hi:hin fi:fin vi:vie he:heb he:iw uk:ukr el:ell
el:gre ms:msa ms:may ms:zsm cs:ces cs:cze ro:ron ro:rum ro:mo ro:mol da:dan hu:hun ta:tam no:nor no:nob no:nb
th:tha ur:urd hr:hrv bg:bul lt:lit la:lat mi:mri mi:mao ml:mal cy:cym cy:wel sk:slk sk:slo te:tel fa:fas
fa:per fa:pes lv:lav lv:lvs bn:ben sr:srp az:aze az:azj sl:slv kn:kan et:est et:ekk mk:mkd mk:mac br:bre
eu:eus eu:baq is:isl is:ice hy:hye hy:arm ne:nep ne:npi mn:mon mn:khk bs:bos kk:kaz sq:sqi sq:alb sw:swa
sw:swh gl:glg mr:mar pa:pan si:sin km:khm sn:sna yo:yor so:som af:afr oc:oci ka:kat ka:geo be:bel tg:tgk
sd:snd gu:guj am:amh yi:yid yi:ydd yi:ji lo:lao uz:uzb uz:uzn fo:fao ht:hat ps:pus ps:pbt tk:tuk nn:nno
mt:mlt sa:san lb:ltz my:mya my:bur bo:bod bo:tib tl:tgl tl:fil mg:mlg mg:plt as:asm tt:tat ln:lin ha:hau
ba:bak jw:jav jw:jv su:sun
"""

# With the region that is spoken in, a code may mean another language: speech services call Cantonese so.
_CANTONESE: Final = re.compile(r"zh-(?:hant-)?(?:hk|mo)")
# "zh-yue": a language of the group "zh" (RFC 5646, section 2.2.2).
_OF_CHINESE: Final = re.compile(r"zh-([a-z]{3})(?:-.*)?")
_WITH_REGION: Final = re.compile(r"([a-z]{2,3})-[a-z0-9-]+")
AUTO: Final = "auto"


def _pairs(table: str) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), code) for code, _, name in (pair.partition(":") for pair in table.split())
    ]


def _folded(name: str) -> str:
    """Return a name without case, accents and doubled blanks."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).replace("_", " ").split())


# English name, in lower case -> code; several names may share a code.
CODE_OF_NAME: Final = dict(_pairs(_TABLE))

# Code -> its first English name.
NAME_OF_CODE: Final = {code: name for name, code in reversed(_pairs(_TABLE))}

_CODE_OF: Final = (
    {_folded(name): code for name, code in _pairs(_OWN_NAMES + _OTHER_CODES)}
    | {_folded(name): code for name, code in CODE_OF_NAME.items()}
    | {code: code for code in NAME_OF_CODE}
)


def language_code(language: str) -> str:
    """Return Whisper's code of a language; unknown spellings come back in lower case.

    Args:
        language: A code ("en", "eng"), one with a region ("en-US", "pt_BR"), a name in English or in the
            language itself ("Spanish", "español") or a token ("<|en|>"). "zh-yue" and "zh-HK" are Cantonese.

    Raises:
        SettingsError: `language` is no text.
    """
    if not isinstance(language, str):
        raise SettingsError(
            f"language is {language!r}, a {type(language).__name__}; expected a code or name in quotes, such "
            "as 'en' or 'english'"
        )
    spelling = language.strip().lower()
    if match := LANGUAGE_TOKEN.fullmatch(spelling):
        return match[1]
    if code := _CODE_OF.get(_folded(language)):
        return code
    tag = re.split(r"[.@]", spelling)[0].replace("_", "-")  # "de_DE.UTF-8", as locales are called
    if _CANTONESE.fullmatch(tag):
        return "yue"
    if match := _OF_CHINESE.fullmatch(tag):
        return _CODE_OF.get(match[1], match[1])
    if (match := _WITH_REGION.fullmatch(tag)) and match[1] in _CODE_OF:
        return _CODE_OF[match[1]]
    return spelling


def language_hint(language: str) -> str:
    """Return what may help where a checkpoint lacks a language: its nearest name, or what else to ask for."""
    import difflib  # wanted where something went wrong alone

    code = language_code(language)
    if code == "yue":
        return " (older checkpoints write Cantonese as Chinese: ask for 'zh')"
    if code in NAME_OF_CODE:
        return ""
    found = difflib.get_close_matches(_folded(language), _CODE_OF, n=1, cutoff=0.7)
    return f" (did you mean {found[0]}?)" if found else ""
