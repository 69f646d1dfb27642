"""Plant flaws into pairs that are right, and count what the gates find that need no model.

    python tests/benchmarks/instruct_flaws.py [--figures runs/quickstart/figures] [--each 100]

The right pairs come from the quickstart's own truth: its figures' captions, asked about by the
template teacher in full sentences. Ten kinds of flaw are planted, `--each` of every kind. Recall is
the share of planted flaws that any rule or gate drops; a false alarm is a right pair that is
dropped, told for every gate. Intervals are Wilson's at 95 %.
"""

import argparse
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from medllava.instruct.context import read_context
from medllava.instruct.conversations import wanted_languages
from medllava.instruct.facts import read_facts
from medllava.instruct.figures import iter_figures, manifest_path
from medllava.instruct.filters import RULES, filter_pairs
from medllava.instruct.gates import GATES, failed_gate
from medllava.instruct.option_gates import failed_option_gate, find_two_right
from medllava.instruct.parse import Pair
from medllava.records import FigureRecord

SENTENCES = {
    "modality": ("What kind of image is this?", "This is {a}, as the whole picture shows."),
    "body part": ("Which part of the body is shown?", "The picture shows the {a}."),
    "plane": ("In which plane was it taken?", "It was taken in the {a} plane."),
    "view": ("From which side was it taken?", "It is a {a} view."),
    "stain": ("Which stain was used here?", "The section was stained with {a}."),
    "sequence": ("Which sequence is this?", "It is {a}."),
    "laterality": ("Which side is shown?", "The {a} side is shown."),
    "amount": ("Are there many or few {n}?", "There are {a} {n} in the field."),
    "count": ("How many {n} can be counted here?", "There are {a} {n} in the picture."),
    "panels": ("How many panels does this figure have?", "It has {a} panels."),
}
ADVICE = (
    "A biopsy is needed to confirm this.",
    "The patient should see a specialist soon.",
    "Further imaging is recommended.",
    "Surgical removal would be necessary here.",
    "This finding warrants follow-up in six months.",
    "You must consult a physician about it.",
    "Treatment with antibiotics is required.",
    "Please contact your doctor.",
    "Consider a biopsy of the region.",
    "It needs to be resected.",
)
REFUSALS = (
    "I'm sorry, but I cannot help with that.",
    "As an AI model I am unable to view the picture.",
    "I can't see the image, so I cannot tell.",
    "This is not specified in the material.",
    "Without access to the image it is not possible to say.",
    "I am not able to provide an interpretation of this.",
    "Sorry, I could not determine what is shown.",
    "The stain is not mentioned.",
)
LEAKS = (
    "According to what the caption says: {answer}",
    "The caption states this clearly. {answer}",
    "{answer} This was reported by the authors.",
    "The article describes it. {answer}",
    "As Figure 2 makes clear, {answer}",
    "{answer} The legend gives the details.",
    "The provided text tells this. {answer}",
    "{answer} The given description names it.",
)
MEASURES = (
    "It measures {n} mm across.",
    "The largest diameter is {n}.{m} cm.",
    "About {n} % of the field is covered.",
    "The density is {n} HU.",
    "It is {n} x {m} mm in size.",
    "The thickness is {n} \u00b5m.",
)
OTHER = (
    "Das Bild zeigt die Struktur, die in der Mitte liegt und von einem dunklen Rand umgeben ist.",
    "La imagen muestra la estructura que se encuentra en el centro y que est\u00e1 rodeada por un borde.",
    "L'image montre la structure qui est au centre et qui est entour\u00e9e par un bord sombre.",
    "\u56fe\u50cf\u663e\u793a\u4e2d\u592e\u6709\u4e00\u4e2a\u7ed3\u6784\uff0c\u5468\u56f4\u6709\u6697\u8272\u8fb9\u7f18\u3002",
    "\u753b\u50cf\u306e\u4e2d\u592e\u306b\u69cb\u9020\u304c\u3042\u308a\u3001\u6697\u3044\u7e01\u306b\u56f2\u307e\u308c\u3066\u3044\u307e\u3059\u3002",
    "\u041d\u0430 \u0441\u043d\u0438\u043c\u043a\u0435 \u0432\u0438\u0434\u043d\u0430 \u0441\u0442\u0440\u0443\u043a\u0442\u0443\u0440\u0430 \u0432 \u0446\u0435\u043d\u0442\u0440\u0435.",
)
BLIND = (
    ("What does MRI stand for?", "It stands for magnetic resonance imaging."),
    ("What is the function of the kidney?", "It filters the blood."),
    ("Does CT use ionizing radiation?", "Yes, it does."),
    ("Which organ pumps blood?", "The heart pumps blood."),
    ("How is pneumonia treated?", "Mostly with medicine."),
    ("Who discovered X-rays?", "R\u00f6ntgen did."),
    ("What causes a fracture?", "A force on a bone."),
    ("Is histopathology a type of microscopy?", "Yes, it is."),
    ("How many chambers does a healthy heart have?", "Four."),
    ("What is the purpose of a contrast agent?", "It makes vessels bright."),
    ("Why is eosin used?", "It colors proteins pink."),
    ("What does this {a} show?", "A {a}."),
)


def right_pairs(figure: FigureRecord) -> list[Pair]:
    pairs = []
    for fact in read_facts(figure):
        if fact.topic.name in SENTENCES:
            question, answer = SENTENCES[fact.topic.name]
            pairs.append(
                Pair(question.format(n=fact.noun), answer.format(a=fact.answer, n=fact.noun))
            )
    return pairs


def found_by(pair: Pair, figure: FigureRecord) -> str | None:
    """Name the rule or gate that drops a pair."""
    filtered = filter_pairs((pair,), languages=wanted_languages(None, figure.caption))
    if filtered.dropped:
        return filtered.dropped[0].rule
    return failed_gate(filtered.pairs[0], read_context(figure))


Planter = Callable[[Pair, FigureRecord, random.Random], Pair | None]


class Planters:
    """One way to spoil a pair for each kind of flaw."""

    def __init__(self, figures: list[FigureRecord]) -> None:
        self.figures = [f for f in figures if right_pairs(f)]

    def wrong_picture(self, _: Pair, figure: FigureRecord, rng: random.Random) -> Pair | None:
        """A pair of another figure whose fact this figure's caption contradicts."""
        mine = {fact.topic.name: fact.answer for fact in read_facts(figure)}
        other = rng.choice(self.figures)
        for fact in read_facts(other):
            name = fact.topic.name
            if name in {"modality", "body part", "plane", "stain", "view"} and name in mine:
                values = {v.answer: v for v in fact.topic.values}
                one, two = values[mine[name]], values[fact.answer]
                if one is two or one.answer in two.within or two.answer in one.within:
                    continue
                question, answer = SENTENCES[name]
                return Pair(question, answer.format(a=fact.answer))
        return None

    def leak(self, pair: Pair, _: FigureRecord, rng: random.Random) -> Pair:
        return Pair(pair.question, rng.choice(LEAKS).format(answer=pair.answer))

    def flipped_side(self, _: Pair, figure: FigureRecord, rng: random.Random) -> Pair | None:
        side = rng.choice(("left", "right"))
        other = {"left": "right", "right": "left"}[side]
        # The archive's captions rarely name a side, so one is put there first.
        object.__setattr__(figure, "caption", f"{figure.caption[:-1]} of the {side} side.")
        forms = (
            ("Which side is shown?", f"The {other} side is shown."),
            ("Where does it lie?", f"It lies on the {other}."),
            (f"Is the {other} side shown?", "Yes."),
            ("Which side is affected?", f"The structures of the {other} are affected."),
        )
        return Pair(*rng.choice(forms))

    def measurement(self, pair: Pair, _: FigureRecord, rng: random.Random) -> Pair:
        text = rng.choice(MEASURES).format(n=rng.randint(11, 89), m=rng.randint(1, 9))
        return Pair("How large is what is seen here?", f"{pair.answer} {text}")

    def advice(self, pair: Pair, _: FigureRecord, rng: random.Random) -> Pair:
        return Pair(pair.question, f"{pair.answer} {rng.choice(ADVICE)}")

    def refusal(self, pair: Pair, _: FigureRecord, rng: random.Random) -> Pair:
        return Pair(pair.question, rng.choice(REFUSALS))

    def repetition(self, pair: Pair, _: FigureRecord, rng: random.Random) -> Pair:
        words = pair.answer.rstrip(".").split()
        tail = " ".join(words[-3:])
        forms = (
            f"{pair.answer} It is seen in the whole field. It is seen in the whole field.",
            f"{pair.answer.rstrip('.')} {tail} {tail} {tail} {tail}.",
            f"{pair.answer} {pair.answer} {pair.answer}",
            f"{pair.answer} {'very ' * 12}clear.",
        )
        return Pair(pair.question, rng.choice(forms))

    def other_language(self, pair: Pair, _: FigureRecord, rng: random.Random) -> Pair:
        return Pair(pair.question, rng.choice(OTHER))

    def answerable_blind(self, _: Pair, figure: FigureRecord, rng: random.Random) -> Pair:
        question, answer = rng.choice(BLIND)
        name = next((f.answer for f in read_facts(figure)), "scan")
        return Pair(question.format(a=name), answer.format(a=name))


KINDS = (
    "wrong_picture",
    "leak",
    "flipped_side",
    "measurement",
    "advice",
    "refusal",
    "repetition",
    "other_language",
    "answerable_blind",
)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Return Wilson's interval of a share at 95 %."""
    if not total:
        return 0.0, 1.0
    z, share = 1.96, hits / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    half /= 1 + z * z / total
    return max(0.0, center - half), min(1.0, center + half)


def two_right_options(
    figures: list[FigureRecord], each: int, rng: random.Random, *, show: bool
) -> tuple[int, int, int, int]:
    """Return planted and found, right and falsely alarmed questions with options."""
    planted = found = right = alarms = 0
    while planted < each:
        figure = rng.choice(figures)
        facts = [f for f in read_facts(figure) if f.topic.values and f.topic.name != "amount"]
        if not facts:
            continue
        fact = rng.choice(facts)
        context = read_context(figure)
        values = {v.answer: v for v in fact.topic.values}
        mine = values[fact.answer]
        others = [
            v.answer
            for v in fact.topic.values
            if v.answer != fact.answer
            and v.answer not in mine.within
            and fact.answer not in v.within
        ]
        if len(others) < 2:
            continue
        wrong = rng.sample(others, min(3, len(others)))
        options = (fact.answer, *wrong)
        right += 1
        if name := failed_option_gate(options, context):
            alarms += 1
            if show:
                print("   false:", name, repr(figure.caption), options)
        twin = rng.choice((mine.phrase, fact.answer.upper(), f"{fact.answer} "))
        planted += 1
        found += find_two_right((fact.answer, *wrong[:-1], twin), 0, context)
    return planted, found, right, alarms


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, default=Path("runs/quickstart/figures"))
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="Print what was missed.")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    figures = list(iter_figures(manifest_path(args.figures), split=None))
    usable = [f for f in figures if right_pairs(f)]
    planters = Planters(figures)
    worst = 1.0
    print(f"{'planted flaw':18} {'planted':>7} {'found':>6}  recall [95 %]          named")
    for kind in KINDS:
        planted, named = 0, Counter()
        while planted < args.each:
            figure = rng.choice(usable)
            copy = FigureRecord.from_json(figure.to_json(), where="bench")
            spoiled = getattr(planters, kind)(rng.choice(right_pairs(figure)), copy, rng)
            if spoiled is None:
                continue
            planted += 1
            name = found_by(spoiled, copy)
            named[name or "missed"] += 1
            if args.show and name is None:
                print("   missed:", repr(copy.caption), spoiled)
        found = planted - named["missed"]
        worst = min(worst, found / planted)
        low, high = wilson(found, planted)
        names = ", ".join(f"{n} {c}" for n, c in named.most_common(4))
        print(
            f"{kind:18} {planted:7} {found:6}  {found / planted:.3f} [{low:.3f}, {high:.3f}]  {names}"
        )
    planted, found, right, alarms = two_right_options(usable, args.each, rng, show=args.show)
    worst = min(worst, found / planted)
    low, high = wilson(found, planted)
    print(
        f"{'two_right_options':18} {planted:7} {found:6}  {found / planted:.3f} [{low:.3f}, {high:.3f}]"
    )
    pairs = [(pair, figure) for figure in usable for pair in right_pairs(figure)]
    falsely = Counter(found_by(pair, figure) for pair, figure in pairs)
    if args.show:
        for pair, figure in pairs:
            if name := found_by(pair, figure):
                print("   false:", name, repr(figure.caption), pair)
    most = 0.0
    print(f"\n{'gate':22} {'right pairs':>11} {'alarms':>6}  false alarms [95 %]")
    for name in (*RULES, *GATES, "other_language"):
        share = falsely[name] / len(pairs)
        most = max(most, share)
        low, high = wilson(falsely[name], len(pairs))
        print(f"{name:22} {len(pairs):11} {falsely[name]:6}  {share:.3f} [{low:.3f}, {high:.3f}]")
    low, high = wilson(alarms, right)
    most = max(most, alarms / right)
    print(
        f"{'all gates of options':22} {right:11} {alarms:6}  {alarms / right:.3f} [{low:.3f}, {high:.3f}]"
    )
    return 0 if worst >= 0.9 and most <= 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
