"""The tone of a text, from a small lexicon of emotive English words."""

from __future__ import annotations

import math
from typing import Final

from scorer_service.scorers.text import words

_WEIGHTS: Final = {
    3: """
        awesome brilliant delighted ecstatic excellent fantastic love loved loves magnificent outstanding
        perfect superb wonderful
    """,
    2: """
        amazing appreciate appreciated beautiful best congratulations enjoy enjoyed enjoys exciting glad
        grateful great happy impressive pleased pleasure proud success successful thank thanks thrilled win
        winner
    """,
    1: """
        agree better calm clear comfortable easy fair fine fresh friendly fun good help helped helpful hope
        interesting kind like nice okay pleasant polite ready recommend safe smart smooth useful warm welcome
        well worth yes
    """,
    -1: """
        bother bored boring confused confusing delay delayed difficult dull hard issue lack late limited miss
        missed odd problem problems slow sorry strange tired unclear unsure weak worry worried wrong
    """,
    -2: """
        angry annoyed annoying bad broken complain disappointed disappointing error fail failed fails failure
        frustrated frustrating hurt ignore ignored lose loss poor rude sad scared ugly unacceptable unfair
        unhappy upset useless waste worse
    """,
    -3: """
        abuse appalling atrocious awful destroy disaster disgusting dreadful hate hated hates horrible idiot
        idiots pathetic stupid terrible worst worthless
    """,
}
_LEXICON: Final = {word: weight for weight, listed in _WEIGHTS.items() for word in listed.split()}
_NEGATIONS: Final = frozenset(
    "no not never none cannot can't don't doesn't didn't won't isn't aren't wasn't without hardly".split()  # noqa: SIM905
)
_NEGATION_REACH: Final = 3
_NEGATION_FACTOR: Final = -0.74
_NORMALISATION: Final = 15.0


def tone(text: str) -> float:
    """From -1 (hostile) to 1 (friendly); 0 for a neutral text."""
    found = [word.replace("’", "'") for word in words(text)]
    total = 0.0
    for index, word in enumerate(found):
        weight = float(_LEXICON.get(word, 0))
        if weight and _NEGATIONS.intersection(found[max(0, index - _NEGATION_REACH) : index]):
            weight *= _NEGATION_FACTOR
        total += weight
    return total / math.sqrt(total * total + _NORMALISATION)
