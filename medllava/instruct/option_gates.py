"""Gates for questions with choices: one option is right, and its looks do not give it away."""

from medllava.instruct.context import COMPARED, NEGATION, Context, is_related
from medllava.instruct.facts import named_values
from medllava.instruct.filters import count_words, fold

TWO_RIGHT, ODD_OPTION, FEW_OPTIONS = "two_right_options", "odd_option", "too_few_options"
NUMBER = "number"
FEWEST_WRONG, MOST_WRONG = 2, 7
_MOST_OPTION_WORDS = 20
_CATCH_ALL = frozenset(
    ["all of the above", "none of the above", "all of these", "none of these", "both", "neither"]
)


def failed_option_gate(options: tuple[str, ...], context: Context) -> str | None:
    """Name the gate that a question's options do not pass, or None.

    Args:
        options: the right one first.
        context: of the figure.
    """
    if not FEWEST_WRONG <= len(options) - 1 <= MOST_WRONG:
        return FEW_OPTIONS
    if any(fold(option) in _CATCH_ALL for option in options):
        return TWO_RIGHT
    if find_odd_option(options, 0) or any(count_words(o) > _MOST_OPTION_WORDS for o in options):
        return ODD_OPTION
    return TWO_RIGHT if find_two_right(options, 0, context) else None


def find_two_right(options: tuple[str, ...], right: int, context: Context) -> bool:
    """Tell whether a second option is right too: the same thing in other words, or a part of it."""
    chosen = options[right]
    for number, option in enumerate(options):
        if number == right:
            continue
        if fold(option) == fold(chosen) or _means_the_same(option, chosen):
            return True
        # The caption names the option as it stands, and not within words of the right one.
        stated = f" {fold(option)} "
        if (
            stated in f" {fold(context.words)} "
            and stated.strip() not in fold(chosen)
            and not NEGATION.search(_before(context.words, option.lower()))
        ):
            return True
    return False


def _means_the_same(option: str, chosen: str) -> bool:
    """Tell whether two options name one value, or one a part of the other, and nothing differs."""
    is_same = False
    for topic in COMPARED:
        here, there = named_values(topic, option), named_values(topic, chosen)
        if not here or not there:
            continue
        if any(a.answer == b.answer or is_related(a, b) for a in here for b in there):
            is_same = True
        else:
            return False
    return is_same


def find_odd_option(options: tuple[str, ...], right: int) -> bool:
    """Tell whether the right option gives itself away by its looks.

    It is more than twice as long as all others, the only number or the only words, or the only one
    of its kind: an organ among planes.
    """
    lengths = [count_words(option) for option in options]
    others = [length for number, length in enumerate(lengths) if number != right]
    if not others or any(not option.strip() for option in options):
        return True
    if lengths[right] > 2 * max(others) + 1:
        return True
    told = _kinds(options[right])
    shared = frozenset.intersection(
        *(_kinds(option) for number, option in enumerate(options) if number != right)
    )
    is_only_number = NUMBER in told and not any(
        NUMBER in _kinds(option) for number, option in enumerate(options) if number != right
    )
    return is_only_number or (bool(shared) and shared.isdisjoint(told))


def _kinds(option: str) -> frozenset[str]:
    """Return the topics whose values an option names, and whether it holds a number."""
    topics = {topic.name for topic in COMPARED if named_values(topic, option)}
    has_number = any(character.isdigit() for character in option)
    return frozenset(topics | ({NUMBER} if has_number else set()))


def _before(text: str, part: str) -> str:
    start = text.find(part)
    return text[max(0, start - 30) : start]
