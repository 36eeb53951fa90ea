"""Words and sentence frames of the quickstart corpus, one `Lexicon` per split.

The two lexicons share no content word and no sentence frame, in any of the three tasks. Word counts therefore do not
transfer to validation, while an encoder that already knows that "consignment" is close to "parcel" does well.
`tests/test_quickstart_corpus.py` fails if an entry breaks this rule.

Blocks are plain text with one entry per line. `|` separates the parts of an entry:
the wordings of one concept, or the verb, the object and the answer of one fact. `{item}`, `{main}`, ... are slots.
"""

from __future__ import annotations

from dataclasses import dataclass

# The only words that training and validation may have in common.
FUNCTION_WORDS: frozenset[str] = frozenset(
    """
    a about all am an and any are as at be been but by can did do does for from had has have how i if in is it me my
    never no not of off on one or our out so that the there this to too up us was we what when which who will with would
    you your
    """.split()
)


@dataclass(frozen=True)
class Lexicon:
    """Raw material of one split; the blocks are read by `data_prep.quickstart`.

    Attributes:
        items: products that a customer message may mention; they say nothing about the intent.
        complaints: intent -> clauses that carry it.
        asides: intent -> clauses that mention its topic in passing, without being the reason for the message.
        message_frames: sentences around `{main}`, the clause that decides the intent.
        contrast_frames: sentences around `{main}` and `{aside}`, in both orders.
        agents, traits: concepts with their wordings: who acts, and an adjective for them.
        scenes: (objects, activities) that go together, each a block of concepts with their wordings.
        scene_frames: sentences around `{trait} {agent}`, `{activity}` and `{object}`.
        facts: domain -> lines of verb | object | what the job takes.
        question_frames: questions around `{job}`, a verb and its object.
        answer_frames: pairs of (plain, echo) statements around `{answer}`; the echo repeats the question's `{object}`.
    """

    items: str
    complaints: dict[str, str]
    asides: dict[str, str]
    message_frames: str
    contrast_frames: str
    agents: str
    traits: str
    scenes: tuple[tuple[str, str], ...]
    scene_frames: str
    facts: dict[str, str]
    question_frames: str
    answer_frames: str
