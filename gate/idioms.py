"""Vocabulary words in other meanings, as data: idioms, and the neighbours that tell which meaning a word has."""

# Idioms in which a vocabulary word means nothing of its kind. They win over shorter terms, so nothing in them counts.
HARMLESS = """
top it off, top it all off, top off, tops it off, top notch, top quality, top tier, top choice, top pick, top rated,
on top, on top of, over the top, from top to bottom, top of the line, top drawer
small of the back, small of your back, spring in your step, spring to life, fall in love, falling in love, fall short
rose to, rose above, silver lining, gold standard, golden hour, golden rule, golden opportunity, out of the blue
green with envy, green light, red carpet, tickled pink, rose tinted, true colours, white lie
stole the show, shrug off, ring true, foundation of, solid foundation, watch out, keep watch
cap it off, belt loop, belt loops, shirt collar, hat off, tip of the hat
cream of the crop, plum job, mint condition, set in stone, cut from the same cloth, hand in glove, heart of gold
brush off, peel off, pillow soft, second skin, paper thin
light as a feather, boot up, pan out, mirror the, mask the, candle to, home run, black sheep, the iron, man made, no man
around the clock, round the clock, in the long run, cold feet, best foot
"""

# Single words that are also ordinary English. Each rule is four sets of neighbouring words, `|` a sentence edge or a
# punctuation mark: the word counts if its neighbour before is in `sure`, and otherwise if (`after` or `before` match,
# where either is given) and neither `not_after` nor `not_before` does. ARTICLE stands for every article noun.
ARTICLE = "<article>"
_SEASON_SURE = "this next last every each early late in for during of and or summer winter autumn"
_VERB_AFTER = "to will can could would may might that which you they it never we not let gently softly always"
_VERB_BEFORE = (
    "to into in from over just below above at on off back out apart short flat down up open away through across between"
    " behind under around past gracefully gently softly smoothly beautifully easily neatly straight loosely naturally"
    " perfectly free freely like for with"
)
_COLOUR_BEFORE = f"colour color coloured colored shade hue tone toned tint finish {ARTICLE}"
_COLOUR_AFTER = "in colour color deep rich dark light pale soft bright"
_SIZE_AFTER = "size sizes sized in or"
_SIZE_NOT_BEFORE = "weight quantities amounts numbers details batches doses part parts scale measure way ways to"
CONTEXTS: dict[str, dict[str, str]] = {
    "fall": {"sure": _SEASON_SURE, "not_after": _VERB_AFTER, "not_before": _VERB_BEFORE},
    "spring": {"sure": _SEASON_SURE, "not_after": _VERB_AFTER, "not_before": "into back up from to forth"},
    "may": {"after": "in of for with since until by early late"},
    "march": {"after": "in of for with since until by early late this every"},
    "top": {"not_after": "to on at over from", "not_before": "it off of quality notch choice all"},
    "tie": {
        "not_after": "to will can could that",
        "not_before": "together up it the your them into back everything",
    },
    "watch": {"not_after": "to you", "not_before": "you as the your how them it out heads people"},
    "ring": {"not_before": "true out"},
    "cap": {"not_after": "to", "not_before": "it off the your"},
    "suit": {
        "after": "a the this your our",
        "before": "| in is for has comes costs with made and of",
        "not_after": "to they will can these that which it and",
    },
    "suits": {"after": "the these our formal"},
    "stole": {"not_before": "the your my our hearts"},
    "clutch": {"not_after": "to"},
    "mask": {"not_after": "to will can", "not_before": "the any your"},
    "peel": {"not_after": "to will can", "not_before": "off away back"},
    "blush": {"not_after": "to will you"},
    "compact": {
        "after": "| the this our your powder",
        "before": "| and is has comes costs powder in for with that which",
    },
    "chain": {"not_before": "of"},
    "foundation": {"not_before": "of"},
    "primer": {"not_before": "on"},
    "plate": {"not_after": "to"},
    "lace": {"not_before": "up"},
    "iron": {"after": "of from in cast wrought", "not_before": "it"},
    "paper": {"not_after": "on"},
    "crystal": {"not_before": "clear"},
    "brush": {"not_after": "to", "not_before": "off up against"},
    "mirror": {"not_after": "to that which", "not_before": "the your"},
    "pan": {"not_before": "out"},
    "fork": {"not_before": "out"},
    "comb": {"not_after": "to"},
    "skin": {"after": "in", "before": "tone toned coloured colored colour color"},
    "sand": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "slate": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "ash": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "coffee": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "chocolate": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "mushroom": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "lemon": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "lime": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "wine": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "brick": {"after": _COLOUR_AFTER, "before": _COLOUR_BEFORE},
    "small": {"after": _SIZE_AFTER, "before": "size sized", "not_before": _SIZE_NOT_BEFORE},
    "medium": {"after": _SIZE_AFTER, "before": "size sized", "not_before": _SIZE_NOT_BEFORE},
    "large": {"after": _SIZE_AFTER, "before": "size sized", "not_before": _SIZE_NOT_BEFORE},
    "home": {"after": "for", "before": "use decor furnishing"},
    "teens": {"not_after": "the"},
    "sport": {"not_after": "to"},
    "party": {"not_before": "to"},
    "exercise": {"not_before": "your caution"},
    "running": {"not_before": "late low out"},
}
# "A cup of tea" is no cup of the shop, "a cup of white porcelain" is: before "of" these count as articles or materials
# if a material follows in the next words, or if nothing before them counts them out ("ceramic and glass of ...").
CONTAINERS = "glass glasses cup cups bowl bowls plate plates pot pots coat coats"
CONTAINER_REACH = 3
COUNTED_BY = "a an the another each every one your my our their his her this that first morning evening favourite"
# Sizes of one letter count as capitals ("in M"), or after the word size.
SIZE_LETTERS = "s m l"
