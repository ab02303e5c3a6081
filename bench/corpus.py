"""A little English text to draw judged inputs from, in sentences; written for this project."""

from __future__ import annotations

import random

SENTENCES = (
    "The ferry left the harbour at seven, an hour late, with forty passengers and a piano on deck.",
    "Nobody had told the baker that the bridge was closed until Thursday.",
    "In 1987 the observatory recorded 312 clear nights, more than in any year before.",
    "She read the letter twice, folded it, and put it under the clock.",
    "Water boils at a lower temperature in the mountains, which is why beans take so long up there.",
    "Who is going to pay for the broken window?",
    "The committee could not agree on a date, a place, or even a purpose.",
    "A spider's thread is, for its weight, stronger than steel.",
    "My grandfather repaired radios; my mother, bicycles; I repair neither.",
    "Turn left after the mill, then keep to the river for about three kilometres.",
    "Prices rose by 4.5% in March and fell again in April.",
    "“It's only rain,” he said, although the cellar was already under water.",
    "The theorem holds for every finite group, but its proof is rather long.",
    "Last night the dog next door barked at nothing for two hours.",
    "Please return the key to room 14 before noon; the office closes early today.",
    "Most of the paintings were lost in the fire, and those that survived had been copied anyway.",
    "Copper conducts heat well and rusts green.",
    "They planted apple trees along the railway line, and no train has run there since.",
    "If the pressure exceeds 6 bar, the valve opens by itself.",
    "The teacher asked for silence, got laughter instead, and laughed too.",
    "Tea was brought from the south by caravans that needed sixteen months for the journey.",
    "He could name every star of the southern sky, yet he had never been south of Lyon.",
    "Our neighbours sold their house to a singer who is hardly ever at home.",
    "An old map shows an island where there is nothing but sea.",
    "The server answered within two milliseconds, except on Mondays.",
    "Wool keeps warm even when wet; cotton does not.",
    "There were seven of us at the table, and six chairs.",
    "The doctor said that walking would help, and the weather said otherwise.",
    "Whoever wrote this had clearly never used a hammer.",
    "Between the two villages lies a marsh that only herons cross.",
    "The match ended in a draw after the goalkeeper scored from his own half.",
    "A year later the same newspaper printed the opposite without a blush.",
    "Salt, flour, water, time: bread needs nothing else.",
    "The engine failed at 9,000 metres and started again at 2,000.",
    "Her first novel sold eleven copies, her second eleven thousand.",
    "Don't touch the left handle; it isn't connected to anything, but it bites.",
)


def texts(count: int, seed: int) -> list[str]:
    """`count` texts, each all sentences in a seeded order of its own."""
    generator = random.Random(seed)
    return [" ".join(generator.sample(SENTENCES, len(SENTENCES))) for _ in range(count)]
