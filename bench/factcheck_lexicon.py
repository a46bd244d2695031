"""The word lists of the fact checker: what a word of product copy asserts, and which other words assert the same.

Notation of a block, one line a family:

    concept = synonym = synonym, concept, ~concept < parent, parent

A fact that supports a concept supports its parents too (a facts' "oak" supports "wood"; never the other way round).
`~` marks a form that is also an everyday word: it counts only where its neighbours make it an assertion (`factcheck`
has the rule of each attribute). Forms are lower case, without hyphens or apostrophes; plurals in -s are understood.

Sources: the extended colour names of CSS Color Module Level 4 (which are X11's), written as words; the generic fibre
names of EU Regulation 1007/2011, annex I; ISO 4217 codes. The other words were collected by hand.
"""

from collections.abc import Iterator
from typing import NamedTuple

COLOURS = """
black, white, red, blue, green, yellow, orange, purple, pink, brown, beige, grey = gray, violet, magenta, cyan
navy blue = navy < blue
turquoise = turquoise blue, teal, aqua, aquamarine, azure, cobalt, cerulean, ultramarine, sapphire blue
maroon, burgundy = bordeaux, crimson, scarlet, vermilion, cerise, fuchsia, mauve, lilac, lavender, indigo, periwinkle
khaki, taupe, ecru, ivory, off white, charcoal, gunmetal, anthracite, ochre, sepia, sienna, umber, puce, chartreuse
silver, gold = golden, bronze, copper, rose gold, white gold, nude, tortoise = tortoiseshell
multicolour = multicolor = multicoloured = multicolored = multi colour = multi coloured = multi colored = multi
colourless = colorless
bluish, reddish, greenish, yellowish, brownish, pinkish, purplish, greyish = grayish, whitish, blackish
alice blue, antique white, blanched almond, blue violet, burly wood, cadet blue, cornflower, cornflower blue
dark orchid, dark salmon, dark slate blue, deep pink, deep sky blue, dim gray, dodger blue, fire brick, floral white
forest green, gainsboro, ghost white, golden rod, green yellow, honeydew, hot pink, indian red
lavender blush, lawn green, lemon chiffon, light coral, light salmon, lime green, medium purple, midnight blue
mint cream, misty rose, navajo white, old lace, olive drab, orange red, orchid, pale goldenrod, pale violet red
papaya whip, peach puff, powder blue, rebecca purple, rosy brown, royal blue, saddle brown, sandy brown
sea green, seashell, sky blue, slate blue, slate gray = slate grey, spring green, steel blue, thistle, white smoke
yellow green, baby blue, baby pink, bottle green, brick red, british racing green, coffee brown, electric blue
emerald green, grass green, hunter green, ice blue, jet black, mint green, mushroom brown, olive green, petrol
petrol blue, racing green, rose pink, rust red, sage green, salmon pink, wine red, chocolate brown, duck egg
~rose, ~cream, ~mint, ~sand, ~sky, ~wine, ~coffee, ~chocolate, ~honey, ~natural, ~rust, ~smoke, ~snow, ~lemon, ~lime
~peach, ~plum, ~cherry, ~berry, ~salmon, ~coral, ~olive, ~mustard, ~midnight, ~wheat, ~tomato, ~pumpkin, ~biscuit
~caramel, ~cinnamon, ~champagne, ~bone, ~brick, ~moss, ~fern, ~sage, ~apricot, ~melon, ~mocha, ~espresso, ~toffee
~chestnut, ~ginger, ~saffron, ~paprika, ~raspberry, ~strawberry, ~blueberry, ~mulberry, ~cranberry, ~aubergine
~avocado, ~pistachio, ~vanilla, ~oatmeal, ~blush, ~heather, ~poppy, ~marigold, ~graphite, ~tan, ~camel, ~fawn
~skin, ~tangerine, ~ocean, ~mushroom, ~bisque, ~banana, ~clay
"""
SHADES = ("light", "dark", "pale", "pastel", "neon", "fluorescent")

MATERIALS = """
cotton, linen = flax, silk, hemp, jute, ramie, sisal, kapok, viscose = rayon, modal, lyocell, cupro, acetate < fabric
polyester, nylon = polyamide, acrylic, elastane = spandex, microfibre = microfiber, polypropylene < fabric
wool = woollen = woolen, cashmere, mohair, alpaca, angora, vicuna, yak, camel hair < fabric
merino wool = merino, lambswool, virgin wool, shetland wool < wool, fabric
pima cotton, egyptian cotton, organic cotton < cotton, fabric
mulberry silk, raw silk < silk, fabric
denim, canvas, corduroy = cord, velvet, satin, chiffon, georgette, crepe, tulle, lace, organza, twill < fabric
tweed, flannel, fleece, jersey, muslin, poplin, seersucker, chambray, terry = terry cloth, velour, brocade < fabric
jacquard, taffeta, voile, gauze, mesh, khadi, chenille, boucle, gabardine, sherpa, oxford cloth, percale < fabric
~felt, ~net, ~knit, ~down, ~straw, fabric = textile = cloth
faux fur = fake fur, fur, feather = goose down = duck down = down filled
leather, full grain leather, patent leather, calfskin, lambskin, cowhide, goatskin, nappa, nubuck, suede < leather
sheepskin = shearling < leather
faux leather = vegan leather = imitation leather = artificial leather = synthetic leather = pu leather = leatherette
faux suede = vegan suede = imitation suede
steel, aluminium = aluminum, titanium, brass, pewter, chrome, zinc < metal
cast iron, wrought iron, ~iron, ~tin, nickel, platinum, alloy < metal
stainless steel = inox, carbon steel < steel, metal
sterling silver < silver, metal
gold plated = gold plating, silver plated = silver plating, metal = metallic
wood = wooden = timber
oak, walnut, teak, beech, maple, birch, mahogany, ebony, rosewood, acacia, cedar, mango wood, ~pine, ~ash < wood
bamboo, rattan, wicker, cork, willow, driftwood, plywood, raffia, seagrass
ceramic = pottery, porcelain, stoneware, earthenware, terracotta, bone china, fine china < ceramic
glass = glassware, borosilicate glass < glass
crystal, enamel = enamelled = enameled
~stone, marble, granite, slate, soapstone, quartz, sandstone, travertine < stone
concrete, plaster
diamond, pearl, ruby, sapphire, emerald, amber, jade, onyx, opal, topaz, amethyst, garnet, cubic zirconia
mother of pearl, rhinestone, gemstone, bead = beaded
plastic, rubber, silicone, latex, resin, pvc, vinyl, polycarbonate, polyurethane, eva, foam, memory foam, neoprene
paper, cardboard, wax, beeswax, soy wax, paraffin
shea butter, cocoa butter, olive oil, coconut oil, argan oil, jojoba, aloe vera, glycerine
synthetic = man made
"""
# As colours these are paint, as what a thing is "made of" they are metal: that needs a fact of its own.
METAL_COLOURS = frozenset({"silver", "gold", "rose gold", "bronze", "copper"})
# The head word of these names what they imitate: a fact "faux leather" must not support "leather".
IMITATIONS = frozenset({"faux leather", "faux suede", "faux fur"})

ARTICLES = """
garment = clothing = clothes = apparel < fabric
~top, bottomwear < garment
tshirt = tee, shirt, blouse, tunic, kurta, kurti, polo shirt, camisole = cami, tank top, bodysuit < top, garment
sweater = jumper = pullover, cardigan, sweatshirt, waistcoat, crop top, turtleneck sweater < top, garment
hoodie = hooded sweatshirt < sweatshirt, top, garment
trousers = pants = slacks, leggings, jeggings, capris, shorts, skirt, churidar, salwar, culottes < bottomwear, garment
chinos, joggers = track pants = sweatpants = trackpants, lounge pants < trousers, bottomwear, garment
jeans < denim, trousers, bottomwear, garment
~dress, gown, jumpsuit, playsuit, romper, saree = sari, lehenga, dungarees, kimono, kaftan, sarong < garment
nightdress = nightgown = nightie, pyjamas = pajamas = pyjama, night suit < nightwear, garment
robe = bathrobe = bath robe = dressing gown < garment
jacket, coat, parka, anorak, windcheater = windbreaker, gilet, poncho, cape < outerwear, garment
blazer, bomber jacket, denim jacket, rain jacket, puffer jacket, biker jacket < jacket, outerwear, garment
overcoat, trench coat, raincoat, peacoat, duffle coat < coat, outerwear, garment
outerwear, nightwear = sleepwear = loungewear < garment
~suit, tuxedo, tracksuit, ~uniform, swimsuit = swimwear, bikini < garment
underwear = innerwear = lingerie
bra, briefs, boxers = boxer shorts, ~trunk, panties = knickers, thong, ~vest < underwear, garment
sock, stockings, ~tights < hosiery, garment
footwear, hosiery
shoe < footwear
sneaker = trainer = sports shoe = running shoe, boot, loafer, moccasin, brogue, espadrille, pumps < shoe, footwear
heels = high heels = stilettos, wedges, ~flats, ballerina = ballet flat, clog, casual shoe, formal shoe < shoe, footwear
ankle boot = bootie, wellington = wellington boot, chelsea boot < boot, shoe, footwear
oxford shoe, derby shoe, ~mules < shoe, footwear
sandal, flip flop, slipper, ~slides < footwear
accessory
bag < accessory
handbag = shoulder bag, backpack = rucksack, tote = tote bag, satchel < bag, accessory
duffel bag = duffle bag = holdall < bag, accessory
laptop bag, messenger bag, sling bag = crossbody bag, trolley bag = suitcase, waist pouch = bum bag < bag, accessory
gym bag, toiletry bag = wash bag, ~clutch, pouch, purse < bag, accessory
wallet = billfold, card holder = cardholder, belt, ~watch, umbrella, handkerchief < accessory
wristwatch = timepiece < watch, accessory
sunglasses = ~shades, spectacles = eyeglasses = ~glasses < eyewear, accessory
eyewear, headwear = headgear, jewellery = jewelry < accessory
hat, ~cap, headband < headwear, accessory
beanie, beret, fedora, sun hat, bucket hat < hat, headwear, accessory
scarf = scarves = muffler, stole, shawl, dupatta, glove, mitten < accessory
~tie = necktie, bow tie, cufflink, suspenders < accessory
key ring = keyring = key chain = keychain < accessory
~ring, necklace, pendant, bracelet, bangle, earring, brooch, anklet, ~chain < jewellery, accessory
homeware = kitchenware = tableware
mug = coffee mug = tea mug, cup = teacup = coffee cup, tumbler, jug = pitcher, carafe = decanter < homeware
~bottle, plate = dinner plate, bowl, teapot, kettle, saucepan, frying pan = skillet, dutch oven, wok < homeware
water bottle, flask = thermos < bottle, homeware
wine glass, chopping board = cutting board, knife = knives, fork, spoon, cutlery, apron, tray, coaster < homeware
towel, tea towel = dish towel, bath mat, cushion = throw pillow, pillow, pillowcase, duvet, curtain < homeware
cushion cover, duvet cover, bed sheet, blanket, quilt, bedspread, rug, carpet, doormat, tablecloth, napkin < homeware
~throw, ~table runner, lamp, lantern, candle, candlestick = candle holder, vase, photo frame = picture frame < homeware
wall clock, ~clock, ~mirror, basket, planter = plant pot, ~stool, ~table, ~chair, ~shelf = ~shelves, ~sofa < homeware
cosmetic = makeup, toiletries
perfume = fragrance = eau de parfum = eau de toilette, cologne = eau de cologne, body mist < scent
deodorant = deo, scent
lipstick, lip gloss = lipgloss, lip liner, mascara, eyeliner = kajal = eye liner, eyeshadow = eye shadow < cosmetic
nail polish = nail varnish = nail lacquer, concealer, ~foundation, ~primer, highlighter, bronzer < cosmetic
lip balm, face wash = cleanser, moisturiser = moisturizer = face cream < toiletries
hand cream, serum, toner < toiletries
body lotion = lotion, sunscreen = sun cream, shampoo, conditioner, soap = bar soap, shower gel = body wash < toiletries
bath salts, bath oil, body scrub, face mask, hair oil, beard oil, shaving cream < toiletries
toothbrush, hairbrush, razor < toiletries
football, basketball, dumbbell, yoga mat, toy, puzzle, headphones, speaker, smartphone, notebook
"""

GENDERS = """
woman = women = lady = ladies = girlfriend = wife = womenswear = womens < female
~mother = mum = mom = grandmother < woman, female
man = men = gent = gentleman = gentlemen = guy = boyfriend = husband = menswear = mens < male
~father = dad = grandfather < man, male
girl = daughter < female, kid
boy = son = lad < male, kid
female = feminine = she = her = hers = herself
male = masculine = he = him = his = himself
kid = child = children = toddler = infant = baby = babies = teen = teenager = junior = kidswear
unisex = gender neutral = genderless = all genders = any gender
"""

SEASONS = """
summer = summertime = summery, winter = wintertime = wintry, ~spring = springtime, autumn = autumnal = ~fall, monsoon
all year round = year round = every season = any season = all seasons
january, february, april, july, september, october, november, december
christmas = xmas, diwali, holi, eid, ramadan, easter, halloween, hanukkah, thanksgiving, valentine day = valentine
new year = new years eve, mother day = mothers day, father day = fathers day, black friday, carnival
"""

OCCASIONS = """
smart casual < casual
casual = casually = laid back
formal = formally = office = business = boardroom = formalwear
sport = sporty = athletic = gym = workout = training = exercise = sportswear
running, jogging, yoga, hiking = trekking, cycling, swimming, skiing, tennis, golf, football match < sport
party = parties = partywear = clubbing = nightclub, wedding = bridal, cocktail, date night, prom, graduation
ethnic, travel = travelling = traveling = trip, beach = beachwear = seaside, camping = outdoors = outdoor
school = classroom, music festival, interview, picnic = barbecue
"""

ORIGINS = """
italy = italian, france = french, spain = spanish, portugal = portuguese, germany = german, england = english
britain = british, scotland = scottish, ireland = irish, switzerland = swiss, austria = austrian, greece = greek
sweden = swedish, denmark = danish, norway = norwegian, finland = finnish, scandinavia = scandinavian = nordic
india = indian, japan = japanese, china = chinese, korea = korean, vietnam = vietnamese, thailand = thai
bangladesh, pakistan, nepal = nepalese, turkey = turkish, morocco = moroccan, egypt = egyptian, persia = persian
america = american = usa, mexico = mexican, brazil = brazilian, peru = peruvian, canada = canadian
australia = australian, europe = european, paris = parisian, milan = milanese
london, new york, tokyo, florence = florentine
belgium = belgian, netherlands = dutch = holland, luxembourg, iceland = icelandic, wales = welsh, poland
czech = czechia, slovakia = slovak, slovenia = slovenian, hungary = hungarian, romania = romanian, croatia = croatian
bulgaria = bulgarian, serbia = serbian, bosnia = bosnian, albania = albanian, macedonia = macedonian
estonia = estonian, latvia = latvian, lithuania = lithuanian, ukraine = ukrainian, russia = russian, belarus
georgia, armenia = armenian, malta = maltese, cyprus = cypriot, israel = israeli, lebanon = lebanese, syria = syrian
jordan = jordanian, iran = iranian, iraq = iraqi, afghanistan = afghan, saudi arabia = saudi, dubai, qatar
tunisia = tunisian, algeria = algerian, libya = libyan, ethiopia = ethiopian, kenya = kenyan, ghana = ghanaian
nigeria = nigerian, senegal, uganda, tanzania, rwanda, mauritius, madagascar, south africa = south african
africa = african, asia = asian, sri lanka = sri lankan, myanmar = burmese, cambodia = cambodian, laos, malaysia
indonesia = indonesian, philippines = filipino, singapore, taiwan = taiwanese, hong kong, mongolia = mongolian
argentina = argentinian = argentine, chile = chilean, colombia = colombian, bolivia = bolivian, ecuador, uruguay
guatemala = guatemalan, honduras, cuba = cuban, jamaica = jamaican, new zealand, hawaii = hawaiian
california = californian, texas = texan, tuscany = tuscan, bavaria = bavarian, provence, andalusia, catalonia
berlin, munich, hamburg, vienna = viennese, zurich, geneva, madrid, barcelona, lisbon, porto, rome = roman, naples
venice = venetian, copenhagen, stockholm, oslo, helsinki, amsterdam, brussels, antwerp, dublin, edinburgh, manchester
sheffield, istanbul, athens, prague, budapest, warsaw, moscow, delhi, mumbai, jaipur, kolkata, chennai, dhaka
karachi, shanghai, beijing, seoul, osaka, kyoto, bangkok, hanoi, los angeles, chicago, boston, sydney, melbourne
imported = import
"""

PATTERNS = """
striped = stripe = stripy, pinstriped = pinstripe < striped
chequered = checkered = ~checked = ~check = ~checks, plaid = tartan < chequered
gingham < chequered
floral = flowery, solid colour = solid color = plain coloured = plain colored, abstract print
polka dot = dotted = spotted, paisley, camouflage = camo, leopard = animal print, zebra, geometric, herringbone
embroidered = embroidery, sequin = sequinned = sequined, printed, graphic, logo, tie dye = tie dyed, houndstooth
quilted, ribbed, pleated, ruffled = ruffle, colour block = color block, monogram = monogrammed, engraved, fringed
hand painted, glossy = gloss finish, matte = matt, glitter = glittery
"""

FEATURES = """
long sleeve = long sleeved = full sleeve = full sleeved, short sleeve = short sleeved = half sleeve < sleeve
three quarter sleeve = three quarter sleeved, cap sleeve = cap sleeved, sleeved < sleeve
sleeve, sleeveless, strap, strapless
v neck = v necked, crew neck = round neck = crew necked, polo neck = roll neck = turtleneck, boat neck < neckline
scoop neck, square neck, halter neck, mandarin collar < neckline
neckline, straight fit = straight leg = straight cut, wide leg = wide cut, bootcut = boot cut, flared, tapered
low rise = low waisted, mid rise, comfort fit, athletic fit, box fit = boxy fit = boxy
pocket, zip = zipper = zipped = zippered, button = buttoned, hood = hooded, drawstring, buckle, lining = lined, lid
elasticated = elastic, waistband, collar = collared, cuff
lace up, hook and loop, insole, outsole, spout, hem, compartment, padded = padding, tassel
slim fit = slim fitting = slim cut = slim leg, regular fit = regular cut, relaxed fit = relaxed cut, oversized
loose fit = loose fitting = loose cut, tailored fit = tailored, skinny = skinny fit, high waisted = high rise
cropped, a line, ankle length, knee length, floor length, plus size, petite, stretchy
bluetooth, usb, battery = batteries, rechargeable, led, chronograph, automatic movement, gps
scented, unscented = fragrance free, double walled = double wall, vacuum, foldable = collapsible, reversible
"""

CLAIMS = """
waterproof = water proof = water resistant = water repellent = weatherproof = showerproof = rainproof, windproof
stain resistant = stainproof = stain proof, rustproof = rust free
wrinkle free = crease free = non iron = wrinkle resistant
breathable, moisture wicking = wicking = quick drying = quick dry, thermal = insulated = insulating
non slip = anti slip
antibacterial = anti bacterial = antimicrobial, odour free = odor free = odourless, uv protection = uv protective, spf
scratch resistant = scratch proof = scratchproof, shatterproof = unbreakable = indestructible, leak proof = leakproof
machine washable = machine wash = washable = washing machine, dry clean, hand wash, dishwasher safe = dishwasher
microwave safe = microwave, oven safe, food safe, bpa free, bpa, fade resistant = colourfast = colorfast, fireproof
organic = organically, sustainable = sustainably = sustainability, eco = environmentally friendly
recycled, recyclable, biodegradable = compostable, carbon neutral = climate neutral, fair trade = fairtrade
ethical = ethically = responsibly sourced, vegan, cruelty free, plastic free, chemical free, toxic free = non toxic
handmade = hand made = handcrafted = hand crafted = hand woven = handwoven = hand sewn = hand stitched = hand finished
hand knitted = hand blown = hand thrown, artisan = artisanal, bespoke = made to measure = custom made
genuine = authentic, pure, real leather, solid gold, solid wood
hypoallergenic = hypo allergenic, dermatologically tested = dermatologist, clinically proven = clinically tested
scientifically proven, doctor recommended, anti ageing = anti aging, orthopaedic = orthopedic = ergonomic
limited edition = limited run = limited stock = while stocks last = limited time, exclusive = exclusively, one of a kind
best selling = bestselling = best seller = bestseller, award winning = award, top rated = highest rated = five star
number one = world leading = market leading, patented = patent pending, certified = certification = certificate
guarantee = guaranteed, warranty = warranties, lifetime, money back = refund, free returns = free return
free shipping = free delivery = ships free = delivered free = next day delivery = fast delivery = express delivery
free gift = gift wrapped = gift wrap = gift box = gift boxed = free of charge
discount = discounted = on sale = sale price = half price = bargain = lowest price = cheapest = reduced = clearance
was originally = marked down = special offer, in stock = back in stock, new arrival = brand new collection
~made in, manufactured in = produced in, celebrity = celebrities, customer review = reviewers
hot for hours = cold for hours = warm for hours = keeps drinks hot = keeps drinks cold
trusted by, thousands of, century = centuries, family run = family owned
comes with = includes = including = included = bundled with
"""
# Phrases whose words assert nothing about the product though one of them stands in a list above.
NEUTRAL = """
silver lining, golden hour, golden rule, golden age, gold standard, green light, red carpet, out of the blue
once in a blue moon, in the pink, white noise, white space, grey area, tickled pink
black coffee, green tea, black tea, white wine, red wine, brown sugar, orange juice, orange peel, cup of, glass of
raise a glass, ice cream, cream cheese, coffee shop, coffee table, wine bar
sea salt, rose water, rose petal, stone wall, stepping stone, set in stone, natural light, natural world, sand dune
snow day, ocean wave, ocean breeze, crystal clear, iron out, silver screen
top quality, top notch, top choice, top pick, on top, over the top, top it off, top off, top to bottom, top drawer
dress up, dress down, dress code, dress it, dress them, watch it, watch as, watch over, tie together
throw it, throw on, throw them, suit any, suit every, suit your, suit you, under your belt, seat belt, to boot
cap it off, cap off, chain reaction, ring true, mirror image, around the clock
lay the table, on the table, on your table, at the table, on the shelf, on your shelf, on a shelf, on the sofa
pocket money, collar bone, at the push of a button, off the cuff, up your sleeve, push the button
child play, mother nature, mother earth, baby soft, baby steps, paper thin, wax lyrical, pure joy
pure comfort, pure and simple, pure pleasure
free spirit, free time, spring in your step, fall in love, party trick, school of thought, training ground
"""
# What may stand before a product's name at the start of a sentence without being anyone's name: small words, what copy
# asks its reader to do, adjectives.
_OPENING_WORDS = """
a an the this these that those our your my his her its their every each any all some no one both another such in on at
by for from with without of to into over under as and or but so if when while because since until after before not
never just only simply even still always now then here there what who how why whether than be is are more most less
very too quite once either neither plus also yet like unlike except nobody zero skip
add bring buy carry catch choose dress enjoy explore feel find gather get give go grab have hold keep know layer let
light live look love make match meet mix need note own pack pair pick place pour put reach see serve set shop show sit
slip spot start step style take team think throw treat trust try turn use wear welcome want watch discover consider
expect experience imagine introduce invite order pop pull say select share send toss rely opt
airy basic best better big bold brand breezy bright calm chic classy clean clear clever cool cosy cozy crisp cute
daily dainty deep dense easy elegant everyday extra fair fancy favourite favorite fine firm first fit flat fresh full
fun gentle glossy good grand great handy happy hardy honest huge ideal key kind lasting lean little long loose lovely
low lush matte mellow mild modern neat new next nice old open perfect plain polished posh pretty prim pure quick quiet
rare ready real rich right roomy round rugged safe sharp sheer short shiny simple sleek slim slow smart smooth snug
soft solid sound spare sparse spotless steady strong sturdy subtle sunny super supple sure sweet tall thick thin tidy
timeless top tough trim true trusty versatile vivid warm well wide wild wonderful young comfy trendy stylish casual
formal fashion luxury premium quality signature statement vintage retro premier superior mature mini midi maxi flowy
lively cheery merry dreamy silky velvety creamy earthy moody stretch comfort high heavy lightweight hot iconic mens
womens kids second third ultra semi made
"""
OPENING_WORDS = frozenset(_OPENING_WORDS.split())
EVERYONE = frozenset({"everyone", "everybody", "anyone", "anybody", "all"})

SIZES = """
~xxs, ~xs = extra small, ~s = ~small, ~m = ~medium, ~l = ~large, ~xl = extra large, ~xxl, ~xxxl
one size = free size = one size fits all = one size fits most
"""

NUMBER_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "dozen": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90, "hundred": 100, "thousand": 1000, "million": 1_000_000,
}  # fmt: skip

_UNITS = """
EUR = € = euro = euros, USD = $ = us$ = dollar = dollars = bucks, GBP = £ = pound = pounds = quid, JPY = ¥ = yen
INR = ₹ = rs = rupee = rupees, CHF = franc = francs, CNY = yuan = renminbi, KRW = ₩ = won, THB = ฿ = baht
MXN = mx$ = peso = pesos, BRL = r$ = reais, CAD = c$ = ca$, AUD = a$ = au$, NZD = nz$, HKD = hk$, SGD = s$, TWD = nt$
SAR = riyal = riyals, AED = dirham = dirhams, TRY = ₺ = lira, RUB = ₽ = rouble = roubles = ruble = rubles, UAH = ₴
PLN = zł = zloty = zlotys, CZK = kč = koruna, HUF = forint = forints, SEK = krona = kronor, DKK = kroner
ILS = ₪ = shekel, ZAR = rand, MYR = ringgit, IDR = rp = rupiah, VND = ₫ = dong, PHP = ₱, NGN = ₦ = naira
KZT = ₸ = tenge, RON = lei
ml = millilitre = millilitres, cl = centilitre = centilitres
l = litre = litres = liter = liters, g = gram = grams = gramme = grammes = gr, kg = kilo = kilos = kilogram = kilograms
mg, oz = ounce = ounces, lb = lbs, mm = millimetre = millimetres, cm = centimetre = centimetres
m = metre = metres = meter = meters, inch = inches, ft = foot = feet, gsm, denier, percent = %, hour = hours = hr = hrs
minute = minutes, second = seconds, day = days, week = weeks, month = months, year = years, times, star = stars
watt = watts, mah, bar, atm, karat = carat
"""
# National currencies, with a few lately withdrawn; no shop asks for the codes of funds, metals and tests.
_ISO_4217 = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP
CNY COP CRC CUC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HRK HTG
HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD
MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF
SAR SBD SCR SDG SEK SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU
UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG ZWL
"""
# In lower case these are words: they count as money in capitals only.
_CODES_AND_WORDS = frozenset(
    {"ALL", "BAM", "BOB", "COP", "CUP", "GEL", "LAK", "MAD", "MOP", "PEN", "RUB", "TOP", "TRY"}
)

BLOCKS = {
    "colour": COLOURS,
    "material": MATERIALS,
    "article": ARTICLES,
    "gender": GENDERS,
    "season": SEASONS,
    "usage": OCCASIONS,
    "origin": ORIGINS,
    "pattern": PATTERNS,
    "feature": FEATURES,
    "claim": CLAIMS,
    "size": SIZES,
    "neutral": NEUTRAL,
}


class Entry(NamedTuple):
    """What a form asserts: a concept of an attribute. `weak`: only in a context that makes it an assertion."""

    attribute: str
    concept: str
    weak: bool


def _families(block: str) -> Iterator[tuple[list[str], frozenset[str]]]:
    """(forms of one concept with their marks, its parents), the form that names the concept first."""
    for line in block.strip().splitlines():
        items, _, parents = line.partition("<")
        above = frozenset(parent.strip() for parent in parents.split(",") if parent.strip())
        for item in items.split(","):
            yield [form.strip() for form in item.split("=")], above


def _plural(form: str) -> str:
    return form + ("es" if form.endswith(("s", "x", "ch", "sh")) else "s")


def _lexicon() -> dict[tuple[str, ...], Entry]:
    """Every form, as the tuple of its words: first those that are written above, then those that follow from them."""
    lexicon: dict[tuple[str, ...], Entry] = {}
    for attribute, block in BLOCKS.items():
        for forms, _ in _families(block):
            for form in forms:
                words, entry = tuple(form.lstrip("~").split()), Entry(attribute, forms[0].lstrip("~"), "~" in form)
                assert words not in lexicon, f"{form!r} is both {lexicon[words]} and {entry}"
                lexicon[words] = entry
    for words, entry in list(lexicon.items()):
        lexicon.setdefault((*words[:-1], _plural(words[-1])), entry)
        if entry.attribute == "colour" and not entry.weak:
            _enter_colour_variants(lexicon, words)
    return lexicon


def _enter_colour_variants(lexicon: dict[tuple[str, ...], Entry], words: tuple[str, ...]) -> None:
    """Shades of a colour are colours of their own, and CSS writes its names as one word."""
    for shade in SHADES:
        lexicon.setdefault((shade, *words), Entry("colour", f"{shade} {' '.join(words)}", weak=False))
    lexicon.setdefault(("".join(words),), lexicon[words])


def _ancestors(lexicon: dict[tuple[str, ...], Entry]) -> dict[str, frozenset[str]]:
    """The concepts that each concept supports: itself, its parents, and theirs."""
    parents = {forms[0].lstrip("~"): above for block in BLOCKS.values() for forms, above in _families(block)}

    def closure(concept: str) -> frozenset[str]:
        above = parents.get(concept, frozenset()) - {concept}
        return frozenset({concept}).union(*map(closure, above))

    return {entry.concept: closure(entry.concept) for entry in lexicon.values()}


LEXICON = _lexicon()
FORM_WORDS_MAX = max(map(len, LEXICON))
ANCESTORS = _ancestors(LEXICON)
CURRENCIES = frozenset(_ISO_4217.split())
UNITS = (
    {form: forms[0] for forms, _ in _families(_UNITS) for form in forms}
    | {code: code for code in CURRENCIES}
    | {code.lower(): code for code in CURRENCIES - _CODES_AND_WORDS}
)
