"""The independent fact checker: copy labelled by hand, errors planted by the row, the messy facts of real products."""

import csv
import os
import random
from pathlib import Path

import pytest

from bench.factcheck import CORE, fact_errors, judge
from bench.factcheck_lexicon import ANCESTORS, LEXICON

REPOSITORY = Path(__file__).resolve().parents[2]
OWN_CATALOGUE = REPOSITORY / "configs" / "catalogue.csv"
SHARED_CATALOGUE = Path(os.environ.get("MINTAGE_SHARED", REPOSITORY.parent / "shared")) / "data" / "catalogue.csv"
UNTOLD = ("sku", "category", "subcategory", "year")
# Words that values of one column share without saying the same.
SHARED_WORDS = {"eur", "eu", "cm", "ml", "g", "x", "litre"}
# Swaps that leave the copy true: the other value names a kind that this one belongs to.
TRUE_ANYWAY = {
    ("Blazer", "Jacket"),
    ("Chinos", "Trousers"),
    ("Hoodie", "Sweatshirt"),
    ("Jeans", "Trousers"),
    ("lambswool", "wool"),
    ("porcelain", "ceramic"),
    ("stoneware", "ceramic"),
    ("suede", "leather"),
}

MUG = {
    "article": "Mug",
    "colour": "Silver",
    "name": "Wrenholt Silver Steel Mug",
    "material": "steel",
    "price": "18.00 EUR",
    "size": "350 ml",
}
SHIRT = {
    "gender": "Men",
    "article": "Shirt",
    "colour": "Navy Blue",
    "season": "Summer",
    "usage": "Casual",
    "name": "Halvoren Men Navy Blue Linen Shirt",
    "material": "linen",
    "price": "59.00 EUR",
    "size": "M",
}
TEE = {
    "gender": "Unisex",
    "article": "Tshirt",
    "colour": "Black",
    "name": "Tandrowe Tidewater Tshirt",
    "material": "cotton",
    "price": "24.00 EUR",
}
BOOTS = {
    "gender": "Women",
    "article": "Boots",
    "colour": "Tan",
    "season": "Winter",
    "name": "Dovrin Alder Boots",
    "material": "faux leather",
    "price": "1,179.00 USD",
    "size": "EU 38",
}
CUSHION = {
    "article": "Cushion",
    "colour": "Rust",
    "name": "Wrenholt Hearth Cushion",
    "material": "cotton and linen",
    "price": "35.00 EUR",
    "size": "45 x 45 cm",
}
PERFUME = {
    "gender": "Women",
    "article": "Perfume and Body Mist",
    "colour": "Pink",
    "usage": "Party",
    "name": "Noctaria Velours Perfume",
    "size": "50 ml",
}
BAG = {
    "article": "Backpack",
    "colour": "Grey",
    "usage": "Travel",
    "name": "Tandrowe Ridge 22 Pack of 2",
    "material": "recycled nylon",
}
JEANS = {"article": "Jeans", "colour": "Light Blue", "name": "Brindlow Slim Jeans"}
DRESS = {"article": "Dresses", "colour": "White", "name": "Sorrelby Multi Coloured Dress"}
SOCKS = {"article": "Socks", "colour": "Black", "name": "Brindlow No Show Cotton Socks"}
JEANS_W = {
    "gender": "Women",
    "article": "Jeans",
    "color": "Blue",
    "material": "cotton",
    "price": "49.00 EUR",
    "size": "M",
}
MIXED_JEANS = {**JEANS_W, "material": "60% cotton, 40% polyester"}
BLEND_JEANS = {**JEANS_W, "material": "cotton blend"}
WATCH = {"article": "Watch", "colour": "Gold", "material": "steel"}
HEELS = {"article": "Heels", "colour": "Silver", "material": "satin"}
PLATED = {"article": "Necklace", "colour": "White", "material": "silver plated"}
FAUX = {"article": "Handbag", "colour": "Black", "material": "faux leather"}
SHOES = {"article": "Shoes", "colour": "Blue"}
BASKET = {"article": "Basket", "pieces": "4"}
STRIPED = {"article": "Shirt", "colour": "Blue", "pattern": "striped", "sleeve": "long sleeve", "fit": "slim"}

CLEAN = [
    (MUG, "The Wrenholt Silver Steel Mug holds 350 ml. It is yours for 18.00 EUR."),
    (MUG, "Start the day with a silver mug of solid steel. At €18, its 350ml hold all the coffee you need."),
    (MUG, "Meet a mug that lasts: silver steel, room for 350 millilitres, and a price of 18 euros."),
    (MUG, "This metal mug in silver steel is made for your morning coffee on the table. 350 ml, EUR 18.00."),
    (MUG, "Not just a mug: 350 ml of silver steel for 18,00 €. Sunday mornings never looked better."),
    (MUG, "A silver steel mug for black coffee or green tea. It takes 350 ml and costs 18.00 EUR."),
    (MUG, "Silver, not gold, this steel mug never pretends. It holds 350 ml for 18.00 EUR."),
    (SHIRT, "The Halvoren Men Navy Blue Linen Shirt is easy to wear. Size M, 59.00 EUR."),
    (SHIRT, "A navy linen shirt for men who like their summer casual. In size medium at €59."),
    (SHIRT, "Wear this men's navy blue linen shirt with your favourite white jeans. Size M, for 59 euros."),
    (SHIRT, "Light on the skin and easy on the eye, this navy shirt in linen is his best friend. 59.00 EUR (M)."),
    (SHIRT, "Navy blue linen, a casual shirt for gentlemen, size M. It pairs well with chinos and costs 59.00 EUR."),
    (SHIRT, "Linen, unlike wool, keeps this men's shirt airy. It comes in navy blue, size M, for 59.00 EUR."),
    (SHIRT, "Top quality navy linen makes this shirt for men a joy to dress up. Size M costs 59.00 EUR."),
    (TEE, "A black cotton T-shirt for men and women, at 24.00 EUR."),
    (TEE, "Everyone needs a black cotton tee. The Tandrowe Tidewater costs €24."),
    (TEE, "The Tandrowe Tidewater Tshirt is a unisex top in soft black cotton. 24.00 EUR."),
    (TEE, "His or hers, this black tee in cotton works with any skirt. Just 24 EUR."),
    (BOOTS, "These women's boots come in tan faux leather. Size EU 38, 1,179.00 USD."),
    (BOOTS, "Tan boots for her winter walks, in vegan leather, size 38. They cost $1179."),
    (BOOTS, "Dovrin Alder Boots for ladies: tan faux leather footwear in size EU 38 for 1,179 dollars."),
    (CUSHION, "A rust cushion in cotton and linen, 45 x 45 cm, for 35.00 EUR."),
    (CUSHION, "The Wrenholt Hearth Cushion brings rust tones home. Cotton meets linen on 45 by 45 cm, for €35.00."),
    (CUSHION, "A 45 x 45 cm cushion, made in soft linen and woven in cotton, in rust. 35.00 EUR."),
    (CUSHION, "Fall in love with a cushion of soft fabric: linen with cotton, in rust, 45×45 cm, 35 EUR."),
    (PERFUME, "Noctaria Velours Perfume for women is pink, playful and made for the party. 50 ml."),
    (PERFUME, "Turn heads at the party: this pink perfume for women comes in a 50 ml bottle."),
    (PERFUME, "This pink fragrance for her puts a spring in your step before any party. 50 ml."),
    (BAG, "A grey backpack in recycled nylon for travel. The Ridge 22 comes as a pack of two."),
    (BAG, "The gray rucksack for your next trip: recycled nylon, quiet and tough."),
    (BAG, "Grey recycled nylon makes this backpack a calm friend on travels. Wear it over your coat."),
    (JEANS, "Brindlow Slim Jeans: light blue denim trousers."),
    (DRESS, "A white multi coloured dress by Sorrelby."),
    (SOCKS, "Brindlow No Show Cotton Socks in black."),
    (SOCKS, "Black Cotton for Calmer Feet at Home. Brindlow No Show Socks in Cotton."),
    (JEANS_W, "Effortless style: blue jeans, cotton, women, M, 49.00 EUR."),
    (JEANS_W, "Soft blue jeans for women, made of cotton. Size M, 49.00 EUR."),
    (JEANS_W, "Blue never goes out of style. These cotton jeans for women cost only 49.00 EUR in size M."),
    (JEANS_W, "Cotton is not only soft: these blue jeans for women are yours for just 49.00 EUR, in size M."),
    (JEANS_W, "Today's favourite: women's blue jeans in cotton, at a price of 49.00 EUR, and in size M."),
    (JEANS_W, "Start the day in blue jeans for women. The cotton feels great, and size M is priced at 49.00 EUR."),
    (JEANS_W, "Comfort made easy: blue cotton jeans for women. They come in size M, with a price tag of 49.00 EUR."),
    (MIXED_JEANS, "Blue jeans for women of 60% cotton and 40% polyester, in size M, for 49.00 EUR."),
    (MIXED_JEANS, "Blue jeans for women: cotton (60%) with polyester (40%). Size M, 49.00 EUR."),
    (BLEND_JEANS, "Blue jeans for women in a cotton blend, size M, 49.00 EUR."),
    (WATCH, "A gold watch in steel, with a touch of gold for every day."),
    (HEELS, "Silver heels, made of silver satin."),
    (FAUX, "A black handbag made of faux leather."),
    (BASKET, "A basket in 4 pieces. All four baskets are a joy."),
    (STRIPED, "A blue striped shirt with long sleeves and a slim fit. Check it out."),
]

# Of our own catalogue, by the number of the product: copy as the models write it.
RIGHT_OF_OURS = [
    ("MT-1007", "Look to this lilac silk blouse for women. It comes in size M, is cut from silk and costs 98.00 EUR."),
    ("MT-1013", "Men's indigo denim jeans by Brindlow, in size 32. They are yours for 79.00 EUR."),
    ("MT-1020", "Turn heads in a red satin dress. Made for women and any party, it comes in size M, for 119.00 EUR."),
    ("MT-1028", "Warm grey socks for men. They are knitted from merino wool, come in EU 43 and cost 14.00 EUR."),
    ("MT-1035", "Dovrin gives women gold sandals of gold leather. Size EU 39, priced at 79.00 EUR."),
    ("MT-1040", "A unisex black backpack with room for 22 litres. Nylon keeps it light, and 74.00 EUR makes it yours."),
    ("MT-1044", "This black leather belt for men measures 95 cm. A formal classic, at 42 euros."),
    ("MT-1057", "Some things simply feel right. The Mossgrave teapot is black cast iron, holds 1.2 litres: 72.00 EUR."),
    ("MT-1064", "Say hello to a turquoise towel. Its cotton spans 70 x 140 cm. The price is 24.00 EUR."),
    ("MT-1069", "Noctaria Men Blue Cologne is a blue scent for men. 75 ml are yours for 61.00 EUR."),
]
WRONG_OF_OURS = [
    ("MT-1007", '"satin"', "A lilac satin blouse for women, in silk. Size M, 98.00 EUR."),
    ("MT-1013", '"34"', "Men's indigo denim jeans in size 32, or size 34, for 79.00 EUR."),
    ("MT-1020", "hedged", "A red satin dress for women, for any party, in size M, from 119.00 EUR."),
    ("MT-1028", '"cashmere"', "Grey socks for men in merino wool and cashmere. Size EU 43, 14.00 EUR."),
    ("MT-1035", 'material "gold"', "Women's gold sandals in leather and crafted in gold. Size EU 39, 79.00 EUR."),
    ("MT-1040", '"25 litres"', "A unisex black nylon backpack of 22 litres, 25 litres when full, for 74.00 EUR."),
    ("MT-1044", '"leather" is imitated', "A black belt for men, 95 cm long, that looks like leather. 42.00 EUR."),
    ("MT-1057", '"2"', "A black cast iron teapot with 2 handles. It holds 1.2 litres and costs 72.00 EUR."),
    ("MT-1064", '"Portugal"', "A turquoise cotton towel, 70 x 140 cm, for 24.00 EUR. Portugal made."),
    ("MT-1069", '"women"', "A blue cologne for men and women. 75 ml, 61.00 EUR."),
]

# Each text is true but for one planted error; the middle column must stand in an error line.
MUG_END = "It holds 350 ml and costs 18.00 EUR."
SHIRT_END = "Size M, 59.00 EUR."
TEE_END = "It costs 24.00 EUR."
JEANS_W_END = "Size M, 49.00 EUR."
PRICE_FRAMES = [
    "starting at 49.00 EUR",
    "as low as 49.00 EUR",
    "from only 49.00 EUR",
    "up to 49.00 EUR",
    "in many shops. Under 49.00 EUR",
    "in our shop. From 49.00 EUR",
    "roughly 49.00 EUR",
    "reduced to 49.00 EUR",
    "for 49.00 EUR and up",
    "for 49.00 EUR or more",
    "a saving of 49.00 EUR",
    "with a 49.00 EUR voucher",
    "for 49.00 EUR off",
    "at a minimum of 49.00 EUR",
    "formerly priced at 49.00 EUR",
]
OTHER_MONEY = ["49.00 MXN", "49.00 KRW", "49.00 THB", "49.00 SAR", "49.00 XOF", "49.00 TRY", "49.00 mxn", "R$ 49.00"]
DENIALS = [
    "Cotton is not used at all.",
    "Blue is not their colour.",
    "Blue isn't the colour here.",
    "Cotton was left out.",
    "Cotton? Not here.",
    "Nobody would ever call these jeans blue.",
    "You could hardly describe the fabric as cotton.",
    "They are devoid of cotton.",
]
IMITATED = [
    "It looks like cotton.",
    "A pseudo cotton.",
    "It has a cotton-feel.",
    "It is cotton-like.",
    "The cotton is fake.",
    "It feels like real cotton.",
    "It is almost blue.",
]
WRONG = [
    (MUG, '"red"', f"This silver steel mug has a red heart. {MUG_END}"),
    (MUG, '"fabric"', f"A silver steel mug of luxurious fabric. {MUG_END}"),
    (MUG, '"stainless steel"', f"A silver mug in stainless steel. {MUG_END}"),
    (MUG, 'material "silver"', f"A silver steel mug, made from pure silver. {MUG_END}"),
    (MUG, '"bottle"', f"This silver steel mug is a bottle for every day. {MUG_END}"),
    (MUG, '"garment"', f"A silver steel mug, and a garment to love. {MUG_END}"),
    (MUG, '"dishwasher safe"', f"This silver steel mug is dishwasher-safe. {MUG_END}"),
    (MUG, '"leakproof"', f"A leakproof silver steel mug. {MUG_END}"),
    (MUG, '"insulated"', f"An insulated mug in silver steel. {MUG_END}"),
    (MUG, '"lid"', f"A silver steel mug with a lid. {MUG_END}"),
    (MUG, '"guarantee"', f"A silver steel mug with a guarantee. {MUG_END}"),
    (MUG, '"made in"', f"A silver steel mug, made in a small town. {MUG_END}"),
    (MUG, '"Italian"', f"A silver steel mug with Italian charm. {MUG_END}"),
    (MUG, '"100 %"', f"A silver mug, 100% steel. {MUG_END}"),
    (MUG, '"Two"', f"Two silver steel mugs. {MUG_END}"),
    (MUG, '"12 months"', f"A silver steel mug that stays with you for 12 months. {MUG_END}"),
    (MUG, '"500 ml"', f"A silver steel mug for 500 ml of tea. {MUG_END}"),
    (MUG, '"350 hours"', f"A silver steel mug that lasts 350 hours. {MUG_END}"),
    (MUG, '"1987"', f"A silver steel mug, loved since 1987. {MUG_END}"),
    (MUG, "size", "A silver steel mug for 18.00 EUR."),
    (MUG, "price", "A silver steel mug that holds 350 ml."),
    (MUG, "material", "This silver mug holds 350 ml and costs 18.00 EUR."),
    (MUG, "colour", "This steel mug holds 350 ml and costs 18.00 EUR."),
    (MUG, "article", "Silver steel that holds 350 ml and costs 18.00 EUR."),
    (MUG, '"19.00 EUR"', "A silver steel mug of 350 ml for 18.00 EUR instead of 19.00 EUR."),
    (MUG, '"$ 18.00"', "A silver steel mug of 350 ml for 18.00 EUR, or $18.00."),
    (MUG, "hedged", "A silver steel mug of 350 ml for under 18.00 EUR."),
    (MUG, '"steel" is negated', f"A silver mug that is not made of steel. The Wrenholt Silver Steel Mug. {MUG_END}"),
    (MUG, '"silver" is negated', f"A steel mug, anything but silver. {MUG_END}"),
    (MUG, '"18.00 EUR" is negated', "A silver steel mug of 350 ml that does not cost 18.00 EUR."),
    (MUG, '"Zephrane"', f"A silver steel mug by Zephrane. {MUG_END}"),
    (MUG, '"Christmas"', f"A silver steel mug for Christmas. {MUG_END}"),
    (MUG, '"office"', f"A silver steel mug for the office. {MUG_END}"),
    (MUG, '"her"', f"A silver steel mug for her. {MUG_END}"),
    (SHIRT, '"white"', f"A white linen shirt for men, or navy blue. {SHIRT_END}"),
    (SHIRT, '"dark blue"', f"A dark blue linen shirt for men in navy. {SHIRT_END}"),
    (SHIRT, '"olive"', f"This navy shirt for men also comes in olive. Linen. {SHIRT_END}"),
    (SHIRT, '"cream"', f"A navy linen shirt for men, a cream shirt at heart. {SHIRT_END}"),
    (SHIRT, '"felt"', f"A navy linen shirt for men, made of felt. {SHIRT_END}"),
    (SHIRT, '"cotton"', f"A navy linen and cotton shirt for men. {SHIRT_END}"),
    (SHIRT, '"jacket"', f"A navy linen shirt for men, and your new jacket. {SHIRT_END}"),
    (SHIRT, '"tie"', f"This tie is a navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"women"', f"A navy linen shirt for men and women. {SHIRT_END}"),
    (SHIRT, "gender", f"A navy linen shirt. {SHIRT_END}"),
    (SHIRT, '"winter"', f"A navy linen shirt for men in winter. {SHIRT_END}"),
    (SHIRT, '"fall"', f"A navy linen shirt for men, perfect this fall. {SHIRT_END}"),
    (SHIRT, '"wedding"', f"A navy linen shirt for men at any wedding. {SHIRT_END}"),
    (SHIRT, '"striped"', f"A striped navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"pocket"', f"A navy linen shirt for men with a chest pocket. {SHIRT_END}"),
    (SHIRT, '"L"', f"A navy linen shirt for men in L. {SHIRT_END}"),
    (SHIRT, '"XL"', f"A navy linen shirt for men, up to XL. {SHIRT_END}"),
    (SHIRT, '"42"', f"A navy linen shirt for men, like a 42. {SHIRT_END}"),
    (SHIRT, '"59"', "A navy linen shirt for men in size 59. Size M, 59.00 EUR."),
    (SHIRT, '"machine washable"', f"A machine-washable navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"recycled"', f"A navy shirt for men in recycled linen. {SHIRT_END}"),
    (SHIRT, '"organic"', f"A navy shirt for men in organic linen. {SHIRT_END}"),
    (SHIRT, '"handmade"', f"A handmade navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"eco"', f"An eco-friendly navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"waterproof"', f"A waterproof navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"free shipping"', f"A navy linen shirt for men with free shipping. {SHIRT_END}"),
    (SHIRT, '"limited edition"', f"A limited-edition navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"best selling"', f"Our best-selling navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"award winning"', f"An award-winning navy linen shirt for men. {SHIRT_END}"),
    (SHIRT, '"linen" is negated', f"A navy shirt for men. The linen shirt without any linen. {SHIRT_END}"),
    (SHIRT, '"men" is negated', f"A navy linen shirt, not for men. {SHIRT_END}"),
    (TEE, '"men"', f"A black cotton tee for men, for everyone. {TEE_END}"),
    (TEE, "gender", f"A black cotton tee. {TEE_END}"),
    (TEE, '"shirt"', f"A unisex black cotton tee, the shirt to have. {TEE_END}"),
    (TEE, '"jeans"', f"Unisex black cotton jeans with a tee. {TEE_END}"),
    (BOOTS, '"leather"', "Women's tan boots in leather, faux leather. Size EU 38, 1,179.00 USD."),
    (BOOTS, '"39"', "Women's tan boots in faux leather. Size EU 38, not size 39, 1,179.00 USD."),
    (BOOTS, '"1,197.00 USD"', "Women's tan boots in faux leather, 1,197.00 USD. Size EU 38, 1,179.00 USD."),
    (CUSHION, "material", "A rust cushion in linen, 45 x 45 cm, 35.00 EUR."),
    (CUSHION, "size", "A rust cushion in cotton and linen, 45 cm, 35.00 EUR."),
    (CUSHION, '"50 cm"', "A rust cushion in cotton and linen, 45 x 50 cm, 45 x 45 cm, 35.00 EUR."),
    (PERFUME, '"rose"', "A pink perfume for women in a rose bottle, 50 ml."),
    (PERFUME, '"hypoallergenic"', "A pink, hypoallergenic perfume for women, 50 ml."),
    (BAG, '"three"', "A grey backpack in recycled nylon. A pack of three."),
    (BAG, '"recyclable"', "A grey backpack in recycled and recyclable nylon."),
    (JEANS, '"dark blue"', "Brindlow Slim Jeans: light blue, or dark blue."),
    (DRESS, '"skirt"', "A white multi coloured dress by Sorrelby, a skirt too."),
    (JEANS_W, "colour", f"Cotton jeans for women. {JEANS_W_END}"),
    *((JEANS_W, "hedged", f"Blue cotton jeans for women in size M, {frame}.") for frame in PRICE_FRAMES),
    *((JEANS_W, f'"{money}"', f"Blue cotton jeans for women. {JEANS_W_END} Or {money}.") for money in OTHER_MONEY),
    *((JEANS_W, "is negated", f"Blue cotton jeans for women. {JEANS_W_END} {denial}") for denial in DENIALS),
    *((JEANS_W, "is imitated", f"Blue cotton jeans for women. {JEANS_W_END} {feigned}") for feigned in IMITATED),
    (MIXED_JEANS, "share", f"Blue jeans for women, 40% cotton and 60% polyester. {JEANS_W_END}"),
    (BLEND_JEANS, "only a part", f"Blue jeans for women in a cotton blend. Cotton to the last thread. {JEANS_W_END}"),
    (BLEND_JEANS, '"cotton blend" is not stated', f"Blue jeans for women in cotton. {JEANS_W_END}"),
    (WATCH, 'material "gold"', "A gold watch in steel. It is made of gold."),
    (WATCH, 'material "gold"', "A gold watch in steel. It is made from the finest gold."),
    (WATCH, 'material "gold"', "A gold watch, a watch of gold and steel."),
    (HEELS, 'material "silver"', "Silver heels in satin, crafted from silver."),
    (FAUX, '"real leather"', "A black handbag in faux leather. It is real leather."),
    (FAUX, '"leather"', "A black handbag in faux leather. The leather is soft."),
    (PLATED, '"sterling silver"', "A white necklace, silver plated. It is sterling silver."),
    (SHOES, '"Guess"', "Guess made these shoes. They are blue."),
    (SHOES, "Zephrane's", "Zephrane's blue shoes."),
    (JEANS_W, '"Gap"', f"Gap blue jeans for women are made of cotton. {JEANS_W_END}"),
    (JEANS_W, '"Bangladesh"', f"Blue cotton jeans for women. {JEANS_W_END} Bangladesh made."),
    (JEANS_W, '"Zephrane"', f"Blue cotton jeans for women. {JEANS_W_END} Zephrane made."),
    (BASKET, '"4"', "The basket comes in 4 pieces and has 4 handles."),
    (STRIPED, '"checked"', "A blue checked shirt, or striped."),
    (STRIPED, '"short sleeves"', "A blue striped shirt with short sleeves."),
    (STRIPED, '"sleeveless"', "A blue striped shirt that is sleeveless."),
    (STRIPED, '"relaxed fit"', "A blue striped shirt in a relaxed fit."),
]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if value and key not in UNTOLD} for row in rows]


def own_facts(sku: str) -> dict[str, str]:
    with open(OWN_CATALOGUE, encoding="utf-8-sig", newline="") as file:
        skus = [row["sku"] for row in csv.DictReader(file)]
    return rows_of(OWN_CATALOGUE)[skus.index(sku)]


def plain_copy(facts: dict[str, str], said: dict[str, str]) -> str:
    """Template copy that says `said`, with the sentences that `facts` has values for."""
    made_of = f" in {said['material']}" if "material" in facts else ""
    colour = f"{said['colour']} " if "colour" in facts else ""
    parts = [f"The {said['name']} is a {colour}{said['article']}{made_of}."]
    parts += [f"It is made for {said['gender']}."] if "gender" in facts else []
    parts += [f"A good choice for {said['usage']} days."] if "usage" in facts else []
    parts += [f"Made for {said['season']}."] if "season" in facts else []
    parts += [f"Size: {said['size']}."] if "size" in facts else []
    parts += [f"It costs {said['price']}."] if "price" in facts else []
    return " ".join(parts)


def words_of(values: list[str]) -> set[str]:
    return {word.removesuffix("s") for value in values for word in value.lower().split()} - SHARED_WORDS


def swaps(facts: dict[str, str], rows: list[dict[str, str]], num_values: int) -> list[tuple[str, str]]:
    """(column, another row's value) for every fact: values that share no word with the facts."""
    own = words_of(list(facts.values()))
    found = []
    for column in facts:
        others = sorted({row[column] for row in rows if column in row and not words_of([row[column]]) & own})
        others = [value for value in others if value != facts[column] and (facts[column], value) not in TRUE_ANYWAY]
        chosen = random.Random(f"{facts['name']} {column}").sample(others, k=min(num_values, len(others)))
        found += [(column, value) for value in chosen]
    return found


@pytest.mark.parametrize(("facts", "text"), CLEAN)
def test_true_copy_is_clean(facts: dict[str, str], text: str) -> None:
    assert fact_errors(facts, text) == []


@pytest.mark.parametrize(("facts", "error", "text"), WRONG)
def test_a_planted_error_is_named(facts: dict[str, str], error: str, text: str) -> None:
    assert [line for line in fact_errors(facts, text) if error in line], fact_errors(facts, text)


@pytest.mark.parametrize(("sku", "text"), RIGHT_OF_OURS)
def test_true_copy_of_our_own_catalogue_is_clean(sku: str, text: str) -> None:
    assert fact_errors(own_facts(sku), text) == []


@pytest.mark.parametrize(("sku", "error", "text"), WRONG_OF_OURS)
def test_a_planted_error_in_copy_of_our_own_catalogue_is_named(sku: str, error: str, text: str) -> None:
    assert [line for line in fact_errors(own_facts(sku), text) if error in line], fact_errors(own_facts(sku), text)


def test_contradictions_and_omissions_are_told_apart() -> None:
    verdict = judge(SHIRT, "A red linen shirt for men. Size M, 59.00 EUR.")
    assert verdict.contradictions == ['colour "red" is not in the facts']
    assert verdict.omissions == ['colour "Navy Blue" is not stated']


def test_a_season_left_out_is_an_omission_only_where_it_is_required() -> None:
    text = f"A navy linen shirt for men. {SHIRT_END}"
    assert fact_errors(SHIRT, text) == []
    assert fact_errors(SHIRT, text, required=[*CORE, "season"]) == ['season "Summer" is not stated']


def test_there_are_enough_labelled_examples_of_both_sorts() -> None:
    assert len(CLEAN) >= 30
    assert len(WRONG) >= 30


def test_empty_copy_leaves_every_core_fact_unsaid() -> None:
    errors = fact_errors(SHIRT, "")
    assert sorted(error.split(" ")[0] for error in errors) == [
        "article",
        "colour",
        "gender",
        "material",
        "price",
        "size",
    ]


def test_template_copy_of_our_own_catalogue_is_clean() -> None:
    for facts in rows_of(OWN_CATALOGUE):
        copy = plain_copy(facts, facts)
        assert fact_errors(facts, copy) == [], copy


def test_every_swapped_fact_of_our_own_catalogue_is_caught() -> None:
    rows = rows_of(OWN_CATALOGUE)
    columns_swapped: set[str] = set()
    for facts in rows:
        for column, value in swaps(facts, rows, num_values=6):
            copy = plain_copy(facts, {**facts, column: value})
            assert fact_errors(facts, copy), (column, facts[column], copy)
            columns_swapped.add(column)
    assert columns_swapped == {*SHIRT}


def test_template_copy_of_real_products_is_clean_for_99_of_100_rows() -> None:
    if not SHARED_CATALOGUE.exists():
        pytest.skip(f"the shared product data is not at {SHARED_CATALOGUE}")
    seed, num_rows = 20, 300
    sample = random.Random(seed).sample(rows_of(SHARED_CATALOGUE), k=num_rows)
    flagged = [(copy, errors) for facts in sample if (errors := fact_errors(facts, copy := plain_copy(facts, facts)))]
    assert len(flagged) <= num_rows // 100, (seed, flagged)


def test_every_form_of_the_lexicon_has_one_meaning_that_supports_itself() -> None:
    assert len(LEXICON) > 2_000
    for words, entry in LEXICON.items():
        assert entry.concept in ANCESTORS[entry.concept], words
        assert all(word == word.lower() and word.isalnum() for word in words), words


def test_concepts_support_what_they_are_kinds_of_and_nothing_else() -> None:
    assert ANCESTORS["jeans"] >= {"denim", "trousers", "garment", "fabric"}
    assert "silver" not in ANCESTORS["steel"]
    assert LEXICON[("tees",)] == LEXICON[("tshirt",)]
