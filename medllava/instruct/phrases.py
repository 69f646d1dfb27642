"""Phrases of each language that tell what may not be learned from; English has its own in `filters`.

A language is known here by what its speakers write when they refuse, speak of the text behind a
picture, give advice, or tell what no picture shows. One that is not here is refused by name.
"""

import re
from dataclasses import dataclass

from medllava.errors import DataError

ENGLISH = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """What texts of one language may not say; patterns ignore case."""

    name: str
    """In English, for prompts and messages."""
    refusal: re.Pattern[str]
    text_source: re.Pattern[str]
    unseen_fact: re.Pattern[str]
    medical_advice: re.Pattern[str]
    left: re.Pattern[str]
    right: re.Pattern[str]
    yes: tuple[str, ...]
    no: tuple[str, ...]


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


PHRASES: dict[str, Phrases] = {
    "zh": Phrases(
        name="Chinese",
        refusal=_any(
            r"抱歉|对不起|不好意思|很遗憾",
            r"作为(?:一个|一名)?(?:AI|人工智能|语言模型)|语言模型",
            r"(?:无法|不能|没办法|没有办法)(?:直接)?(?:看到|看见|查看|访问|识别|判断|确定|回答|提供|协助|得知)",
            r"(?:未|没有)(?:被)?(?:提及|提到|说明|提供|给出|描述|指明|注明)",
        ),
        text_source=_any(
            r"图注|图例|图片说明|图像说明|说明文字|标题(?:中|里|所|提|写|显示|说)|字幕|题注",
            r"(?:文章|论文|文中|原文|正文|作者|本文|该文|文献)",
            r"(?:根据|依据|按照|如)(?:所?提供的?|上述|给定的?)?(?:描述|文字|文本|信息|上下文|说明)",
            r"(?:提供|给出|给定)的(?:描述|文字|文本|信息|上下文|说明|资料)",
            r"图\s*\d",
        ),
        unseen_fact=_any(
            r"\d{1,3}\s*(?:岁|周岁|个月大)|[一二三四五六七八九十百]{1,4}岁",
            r"(?:19|20)\d\d\s*年|(?:术|治疗|入院|发病)[前后]\s*\d",
            r"\d+\s*(?:天|周|个月|年|小时)(?:前|后|之前|之后)",
            r"\d+(?:\.\d+)?\s*(?:毫克|毫升|mg|ml|mmHg|mmol)|[pP]\s*[<=>]\s*0?\.\d",
            r"\d+\s*(?:名|例|位)患者|病史|主诉|随访",
        ),
        medical_advice=_any(
            r"建议(?:您|你|患者|病人|进行|进一步|尽快|去|做|行|手术|就医|咨询|复查|随访|接受|服用)",
            r"(?:应该|应当|应|必须|需要|须|需)(?:尽快|立即|进一步|及时)?(?:就医|手术|治疗|活检|复查|随访|检查|"
            r"咨询|服用|住院|接受|进行(?:活检|手术|治疗|进一步|复查|检查))",
            r"请(?:咨询|去看|联系|遵)(?:您的)?(?:医生|医师|专科|医嘱)|请及时就医|推荐(?:使用|进行|手术|治疗)",
        ),
        left=_any(r"左"),
        right=_any(r"右"),
        yes=("是", "有", "对", "可以", "存在"),
        no=("否", "不", "没有", "无", "未"),
    ),
    "ja": Phrases(
        name="Japanese",
        refusal=_any(
            r"申し訳|すみません|ごめんなさい|残念ながら",
            r"AI(?:として|です|なので)|言語モデル",
            r"(?:見る|確認する|判断する|お答えする|答える|回答する|提供する|特定する)ことは?(?:が)?でき(?:ません|ない)",
            r"(?:判断|確認|回答|特定|お答え)(?:は|が)?(?:でき(?:ません|ない)|しかね)|わかりません|分かりません",
            r"(?:記載|言及|説明|明記|提供)(?:は|が)?(?:され(?:ていません|ておらず|ていない)|ありません|ない)",
        ),
        text_source=_any(
            r"キャプション|図の説明|説明文|図説|凡例|レジェンド",
            r"(?:論文|本文|記事|文献|著者|文中)",
            r"(?:提供|与え|示)された(?:情報|文章|テキスト|説明|文脈)|(?:説明|記述|文脈|テキスト|情報)によ(?:る|れば|ると)",
            r"図\s*\d",
        ),
        unseen_fact=_any(
            r"\d{1,3}\s*(?:歳|才|か月児|ヶ月児)",
            r"(?:19|20)\d\d\s*年|\d+\s*(?:日|週間|か月|ヶ月|カ月|年|時間)(?:前|後)",
            r"\d+(?:\.\d+)?\s*(?:mg|ml|mmHg|ミリグラム)|[pP]\s*[<=>]\s*0?\.\d",
            r"\d+\s*(?:名|例|人)の患者|病歴|既往歴|主訴|経過観察",
        ),
        medical_advice=_any(
            r"(?:受診|手術|治療|生検|検査|精査|相談|服用|入院|再検)(?:を|が|する|を受ける|を行う)?"
            r"(?:こと)?(?:を|が)?(?:お勧め|勧め|推奨|必要|すべき|してください|したほうが|した方が|望まし)",
            r"(?:医師|専門医|病院)(?:に|へ|を)(?:ご)?(?:相談|受診|行)",
        ),
        left=_any(r"左"),
        right=_any(r"右"),
        yes=("はい", "ええ"),
        no=("いいえ", "いえ"),
    ),
    "es": Phrases(
        name="Spanish",
        refusal=_any(
            r"\blo siento\b|\blamento\b|\bdisculp",
            r"\bcomo (?:una? )?(?:IA|inteligencia artificial|modelo)\b|\bmodelo de lenguaje\b",
            r"\bno (?:puedo|es posible|me es posible|soy capaz de|tengo acceso|podemos)\b",
            r"\bno (?:se )?(?:menciona|especifica|proporciona|describe|indica|detalla)n?\b",
            r"\bno (?:está|se ha|ha sido) (?:mencionad|especificad|proporcionad|descrit|indicad)",
        ),
        text_source=_any(
            r"\b(?:pie de (?:foto|figura|imagen)|leyenda|epígrafe)\b",
            r"\b(?:el|la|este|esta) (?:artículo|texto|manuscrito|publicación|estudio citado)\b",
            r"\blos autores\b|\bsegún (?:la|el) (?:descripción|texto|leyenda|pie|contexto|información)\b",
            r"\b(?:descripción|información|texto|contexto) (?:proporcionad|dad|facilitad|suministrad)",
            r"\bfig(?:ura|\.)\s*\d",
        ),
        unseen_fact=_any(
            r"\b\d{1,3}\s*(?:años|meses|semanas|días)(?: de edad)?\b|\bedad de \d",
            r"\ben (?:19|20)\d\d\b|\bp\s*[<=>]\s*0?[.,]\d|\b\d+(?:[.,]\d+)?\s*(?:mg|ml|mmHg|mmol)\b",
            r"\b\d+ pacientes\b|\bantecedentes\b|\bseguimiento\b|\bhistoria clínica\b",
        ),
        medical_advice=_any(
            r"\bse (?:recomienda|aconseja|sugiere)\b|\b(?:recomiendo|recomendamos|aconsejo)\b",
            r"\b(?:debe|debería|deberían|deben|tiene que|necesita|requiere|precisa)\s+(?:\w+\s+)?"
            r"(?:consultar|acudir|someterse|operar\w*|tratar\w*|biopsia|cirugía|tratamiento|"
            r"realizar\w*|seguimiento|hospital\w*|evaluación)",
            r"\b(?:consulte|acuda|visite|contacte)\b.{0,30}\b(?:médico|especialista|profesional|doctor)",
            r"\b(?:es|será|sería) (?:necesari[ao]|recomendable|aconsejable|imprescindible)\b.{0,30}"
            r"\b(?:biopsia|cirugía|tratamiento|seguimiento|operar|consultar|realizar|tratar)",
        ),
        left=_any(r"\bizquierd[oa]s?\b"),
        right=_any(r"\bderech[oa]s?\b"),
        yes=("sí", "si"),
        no=("no",),
    ),
    "de": Phrases(
        name="German",
        refusal=_any(
            r"\b(?:es tut mir leid|tut mir leid|entschuldig|leider)\b",
            r"\bals (?:eine? )?(?:KI|künstliche intelligenz|sprachmodell)\b|\bsprachmodell\b",
            r"\b(?:kann|können)\s+(?:\w+\s+){0,5}nicht\s+(?:\w+\s+)?(?:sehen|einsehen|beurteilen|erkennen|"
            r"beantworten|sagen|bestimmen|beantwortet|beurteilt)\b",
            r"\bnicht (?:erwähnt|angegeben|beschrieben|genannt|spezifiziert|mitgeteilt)\b",
        ),
        text_source=_any(
            r"\b(?:bildunterschrift|bildlegende|legende|bildbeschreibung|abbildungstext)\w*\b",
            r"\b(?:der|dem|des|im|diesem|dieser) (?:artikel|text|aufsatz|manuskript|publikation|arbeit)s?\b",
            r"\b(?:die|den) autoren\b",
            r"\b(?:laut|gemäß|nach) (?:der|dem) (?:beschreibung|text|angaben?|legende|kontext)\b",
            r"\b(?:bereitgestellt|gegeben|vorliegend)en? (?:text|beschreibung|information|kontext)",
            r"\babb(?:ildung|\.)\s*\d",
        ),
        unseen_fact=_any(
            r"\b\d{1,3}[\s-]*(?:jahre?|monate?|wochen?)(?:[\s-]*alt\w*)?\b|\b\d{1,3}-?jährig",
            r"\bim jahr (?:19|20)\d\d\b|\bp\s*[<=>]\s*0?[.,]\d|\b\d+(?:[.,]\d+)?\s*(?:mg|ml|mmHg|mmol)\b",
            r"\b\d+ patient(?:en|innen)\b|\banamnese\b|\bvorgeschichte\b|\bverlaufskontrolle\b",
        ),
        medical_advice=_any(
            r"\b(?:empfehle|empfehlen wir|wird empfohlen|ist zu empfehlen|empfiehlt sich|ratsam)\b",
            r"\b(?:sollte|sollten|muss|müssen)\b.{0,60}\b(?:arzt|ärztin|operier\w*|behandel\w*|biops\w*|"
            r"therap\w*|kontroll\w*|abgeklärt|untersuch\w*|überw\w*)\b",
            r"\b(?:biopsie|operation|behandlung|therapie|abklärung|kontrolle)\b.{0,20}\b(?:ist|wäre) "
            r"(?:\w+ )?(?:nötig|notwendig|erforderlich|indiziert|angezeigt|ratsam|sinnvoll)\b",
            r"\b(?:suchen|konsultieren|wenden|fragen) sie\b.{0,40}\b(?:arzt|ärztin|facharzt)\b",
        ),
        left=_any(r"\blink(?:s|e[nrms]?)\b"),
        right=_any(r"\brecht(?:s|e[nrms]?)\b"),
        yes=("ja",),
        no=("nein",),
    ),
    "fr": Phrases(
        name="French",
        refusal=_any(
            r"\bdésolée?\b|\bje regrette\b|\bmalheureusement\b",
            r"\ben tant qu['’]?(?:IA|intelligence artificielle|modèle)\b|\bmodèle de langage\b",
            r"\b(?:je )?ne (?:peux|suis|puis) pas (?:\w+ ){0,3}(?:voir|capable|répondre|déterminer|accéder|aider)",
            r"\bn['’](?:est|a) pas (?:été )?(?:mentionn|précis|indiqu|fourni|décri|spécifi)",
            r"\bimpossible de (?:voir|répondre|déterminer|dire)",
        ),
        text_source=_any(
            r"\blégende\b|\bl['’]article\b|\bdu texte\b|\ble texte\b|\bmanuscrit\b|\bles auteurs\b",
            r"\bselon (?:la|le|l['’]) ?(?:description|texte|légende|contexte|information)",
            r"\b(?:description|information|texte|contexte)s? (?:fournie?|donnée?)s?\b",
            r"\bfig(?:ure|\.)\s*\d",
        ),
        unseen_fact=_any(
            r"\b\d{1,3}\s*(?:ans|mois|semaines)\b|\bâgée? de\b",
            r"\ben (?:19|20)\d\d\b|\bp\s*[<=>]\s*0?[.,]\d|\b\d+(?:[.,]\d+)?\s*(?:mg|ml|mmHg|mmol)\b",
            r"\b\d+ patient(?:e)?s\b|\bantécédents\b|\bsuivi (?:de|clinique|médical)\b",
        ),
        medical_advice=_any(
            r"\b(?:il est|est) (?:recommandée?|conseillée?|préconisée?)\b|\bje (?:recommande|conseille)\b",
            r"\bnous recommandons\b",
            r"\b(?:doit|devrait|devraient|doivent|nécessite|requiert|faut)\b.{0,40}\b(?:consulter|opér\w+|trait\w+|"
            r"biopsie|chirurgie|hospitalis\w+|surveill\w+|suivi|explor\w+)",
            r"\b(?:biopsie|chirurgie|traitement|intervention)\b.{0,20}\b(?:est|serait) (?:\w+ )?"
            r"(?:nécessaire|indiquée?|requise?|indispensable)\b",
            r"\b(?:consultez|voyez|contactez)\b.{0,30}\b(?:médecin|spécialiste|professionnel)",
        ),
        left=_any(r"\bgauches?\b"),
        right=_any(r"\bdroite?s?\b"),
        yes=("oui",),
        no=("non",),
    ),
}
NAMES = {ENGLISH: "English"} | {code: phrases.name for code, phrases in PHRASES.items()}


def check_language(code: str) -> str:
    """Return a language's code if there are rules for it.

    Raises:
        DataError: there are none; names those that have.
    """
    lowered = code.strip().lower()
    by_name = {name.lower(): code for code, name in NAMES.items()}
    found = by_name.get(lowered, lowered)
    if found not in NAMES:
        known = ", ".join(f"{code} ({name})" for code, name in sorted(NAMES.items()))
        raise DataError(f"no rules for language {code!r}. Languages with rules: {known}.")
    return found
