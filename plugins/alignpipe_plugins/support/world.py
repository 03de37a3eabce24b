"""The support world: customers, products and problems, and the answers an agent may give.

A prompt names a customer, a product and a problem; a good answer greets that customer, names that product, offers the
remedy that fits that problem, strikes the tone the problem calls for, and stops. Nearly all of the gold reward
therefore depends on the prompt: no constant answer is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

NAMES = (
    "Maria", "Peter", "Amina", "Jonas", "Sofia", "Kenji", "Laura", "Omar", "Elena", "David", "Priya", "Lucas",
    "Fatima", "Oscar", "Grace", "Ivan", "Nora", "Samuel", "Chloe", "Hassan", "Ingrid", "Mateo", "Zoe", "Victor",
)  # fmt: skip
PRODUCTS = (
    "lamp", "kettle", "jacket", "camera", "blender", "backpack", "keyboard", "mirror", "carpet", "monitor", "tent",
    "toaster", "printer", "scooter", "watch", "speaker",
)  # fmt: skip
COLOURS = ("blue", "red", "green", "black", "white", "silver")


@dataclass(frozen=True)
class Problem:
    """What can be wrong: how a customer says it, and the phrases by which an answer offers the one fitting remedy."""

    said: tuple[str, ...]
    remedies: tuple[str, ...]
    complaint: bool
    """A complaint calls for an apology, a question for thanks."""


PROBLEMS: Mapping[str, Problem] = {
    "broken": Problem(
        ("My {item} arrived broken.", "The {item} came with a crack.", "I got a damaged {item}."),
        ("We will send a replacement today.", "A replacement is on its way."),
        complaint=True,
    ),
    "late": Problem(
        ("My {item} has not arrived yet.", "I am still waiting for the {item}.", "The {item} never came."),
        ("Here is the tracking link.", "I am sending you the tracking link."),
        complaint=True,
    ),
    "charged": Problem(
        ("I paid twice for the {item}.", "You charged me two times for my {item}.", "The {item} was billed twice."),
        ("We will refund the second payment.", "A refund is on its way."),
        complaint=True,
    ),
    "manual": Problem(
        ("How do I set up the {item}?", "Is there a guide for the {item}?", "How can I use my {item}?"),
        ("Here is the manual.", "I am sending you the manual."),
        complaint=False,
    ),
    "warranty": Problem(
        ("How long is the {item} covered?", "Is my {item} insured?", "Does the {item} have a guarantee?"),
        ("The warranty lasts two years.", "It has a warranty of two years."),
        complaint=False,
    ),
    "stock": Problem(
        ("Can I buy another {item}?", "Do you still sell the {item}?", "Could I get a second {item}?"),
        ("You can order it again online.", "Yes, order it in our shop."),
        complaint=False,
    ),
}  # fmt: skip

REMEDY_WORDS: Mapping[str, str] = {
    "broken": "replacement",
    "late": "tracking",
    "charged": "refund",
    "manual": "manual",
    "warranty": "warranty",
    "stock": "order",
}
"""The word by which each remedy is known, whatever the phrase around it."""

OPENINGS = ("Hi, this is {name}.", "Hello, {name} here.", "My name is {name}.", "{name} speaking.")
APOLOGIES = ("Sorry about the {item}.", "I am sorry about your {item}.")
THANKS = ("Thanks for asking about the {item}.", "Thank you for choosing our {item}.")
VAGUE = ("We will look into it.", "Somebody will call you back.")
CHATTER = ("Our shop is open every day.", "Please rate this chat.", "Have you seen our summer sale?")
CURT = ("Noted about the {item}.", "This is about your {item}.")
BARE_APOLOGIES = ("Sorry about that.", "I am sorry.")
BARE_THANKS = ("Thanks for asking.", "Thank you.")
BARE_CURT = ("Noted.", "I see.")


@dataclass(frozen=True)
class Case:
    """One customer with one problem; the facts a gold reward checks an answer against."""

    name: str
    product: str
    colour: str
    problem: str
    opening: int
    phrase: int

    def prompt(self) -> str:
        """What the agent reads."""
        said = PROBLEMS[self.problem].said[self.phrase].format(item=f"{self.colour} {self.product}")
        return f"Customer: {OPENINGS[self.opening].format(name=self.name)} {said}\nAgent:"

    def facts(self) -> dict[str, str]:
        """The columns of the prompt's row."""
        return {"customer": self.name, "product": self.product, "problem": self.problem}


def sample_case(random: Random) -> Case:
    """Draw a customer with a problem, all of them equally likely."""
    problem = random.choice(list(PROBLEMS))
    return Case(
        name=random.choice(NAMES),
        product=random.choice(PRODUCTS),
        colour=random.choice(COLOURS),
        problem=problem,
        opening=random.randrange(len(OPENINGS)),
        phrase=random.randrange(len(PROBLEMS[problem].said)),
    )


@dataclass(frozen=True)
class Habits:
    """How an agent writes: the probability of each good and each bad trait of an answer."""

    greets: float = 0.50
    greets_wrongly: float = 0.02
    names_product: float = 0.50
    names_wrong_product: float = 0.02
    fits: float = 0.45
    misfits: float = 0.08
    right_tone: float = 0.50
    wrong_tone: float = 0.06
    chatters: float = 0.30


DRAFTS = Habits(greets_wrongly=0.05, names_wrong_product=0.05, fits=0.40, misfits=0.30, wrong_tone=0.15)
"""Those who wrote what was compared: wrong more often than the demonstrations, so that pairs tell right from wrong and
not only present from absent."""


def sample_answer(case: Case, habits: Habits, random: Random) -> str:
    """Draw one answer of an agent with these habits; starts with a space, as responses do (D05)."""
    return _joined([draw(case, habits, random) for draw in _SENTENCES])


def sample_pair(case: Case, habits: Habits, random: Random) -> tuple[str, str]:
    """Draw an answer and a second draft of it, in which one of the sentences is drawn anew."""
    first = [draw(case, habits, random) for draw in _SENTENCES]
    second = list(first)
    position = random.randrange(len(_SENTENCES))
    second[position] = _SENTENCES[position](case, habits, random)
    return _joined(first), _joined(second)


def _joined(sentences: list[str]) -> str:
    return " " + " ".join(sentence for sentence in sentences if sentence)


def _greeting(case: Case, habits: Habits, random: Random) -> str:
    draw = random.random()
    if draw < habits.greets:
        return f"Hello {case.name}."
    if draw < habits.greets + habits.greets_wrongly:
        return f"Hello {_other(case.name, NAMES, random)}."
    return "Hello."


def _tone(case: Case, habits: Habits, random: Random) -> str:
    draw = random.random()
    complaint = PROBLEMS[case.problem].complaint
    if draw < habits.right_tone:
        named, bare = (APOLOGIES, BARE_APOLOGIES) if complaint else (THANKS, BARE_THANKS)
    elif draw < habits.right_tone + habits.wrong_tone:
        named, bare = (THANKS, BARE_THANKS) if complaint else (APOLOGIES, BARE_APOLOGIES)
    else:
        named, bare = CURT, BARE_CURT
    draw = random.random()
    if draw < habits.names_product:
        return random.choice(named).format(item=case.product)
    if draw < habits.names_product + habits.names_wrong_product:
        return random.choice(named).format(item=_other(case.product, PRODUCTS, random))
    return random.choice(bare)


def _remedy(case: Case, habits: Habits, random: Random) -> str:
    draw = random.random()
    if draw < habits.fits:
        return random.choice(PROBLEMS[case.problem].remedies)
    if draw < habits.fits + habits.misfits:
        return random.choice(PROBLEMS[_other(case.problem, tuple(PROBLEMS), random)].remedies)
    return random.choice(VAGUE)


def _chatter(case: Case, habits: Habits, random: Random) -> str:
    return random.choice(CHATTER) if random.random() < habits.chatters else ""


def _other(value: str, choices: tuple[str, ...], random: Random) -> str:
    return random.choice([choice for choice in choices if choice != value])


_SENTENCES = (_greeting, _tone, _remedy, _chatter)
