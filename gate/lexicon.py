"""The words the gate knows, as data: colours, materials, genders, seasons, ... Articles are in `gate.nouns`, words that
may mean something else in `gate.idioms`. `gate.vocabulary` compiles them; nothing else reads these files.

One term a line: `canonical: synonym, synonym > broader, broader`. A broader term may be said of a
thing (jeans are trousers) but does not state it (trousers are not always jeans).
"""

COLOURS = """
black: ebony, jet black
white: snow white
blue: bluish, blueish, blues
red: reddish, reds
green: greenish, greens
yellow: yellowish
brown: brownish, browns
pink: pinkish, pinks
purple: purplish
orange: orangish
grey: gray, greyish, grayish, greys, grays
beige
navy blue: navy > blue
royal blue > blue
sky blue > blue
midnight blue > blue
powder blue > blue
turquoise: turquoise blue > blue
cobalt: cobalt blue > blue
cerulean > blue
azure > blue
indigo
aqua: aquamarine
cyan
teal
steel
gold: golden, gold toned, gold tone, gold coloured
rose gold
silver: silvery, silver toned, silver tone
bronze
copper: coppery
brass
gunmetal: gun metal
platinum
metallic
pewter
mustard: mustard yellow > yellow
lemon yellow: lemon > yellow
ochre: ocher
maroon
burgundy: bordeaux, oxblood
wine: wine red > red
crimson > red
scarlet > red
ruby: ruby red
cherry red > red
vermilion > red
rust: rusty, rust coloured
terracotta
brick
coral
salmon: salmon pink > pink
peach: peachy
apricot
rose: rosy
blush: blush pink > pink
fuchsia
magenta
hot pink > pink
lavender
lilac
violet
plum
mauve
aubergine: eggplant
charcoal: charcoal grey, charcoal gray > grey
grey melange: gray melange, melange grey, heather grey > grey
slate grey: slate, slate gray > grey
ash grey: ash gray, ash > grey
silver grey: silver gray > grey
olive: olive green > green
sea green: seagreen > green
lime green: lime > green
mint green: mint > green
fluorescent green: neon green > green
emerald: emerald green > green
forest green: bottle green > green
sage: sage green > green
khaki
jade: jade green > green
chartreuse
tan
camel
caramel
chocolate: chocolate brown > brown
coffee brown: coffee, coffee coloured > brown
mushroom brown: mushroom > brown
chestnut > brown
mocha
taupe
sand
sepia
nude
skin: skin tone, skin toned, skin coloured, skin colored, skin colour, skin color
off white: offwhite > white
cream: creamy white, cream coloured
ivory
ecru
eggshell
pearl white: pearly > white
multicolour: multi, multicolor, multi colour, multi color, multicoloured, multicolored, multi coloured, multi colored, \
rainbow, colourful, colorful
monochrome: black and white > black, white
"""

# A shade makes another colour of these; "dark blue" is not stated by "blue", but may be called blue.
SHADED = "black white blue red green yellow brown pink purple orange grey gray beige teal khaki olive"
SHADES = "light dark pale deep bright neon pastel fluorescent dusty baby electric navy royal sky ice"

# Cloth of any kind is fabric; a mug of steel is not.
TEXTILES = """
cotton: cottons
pima cotton: pima > cotton
linen: flax
silk
satin
wool: woollen, woolen, wooly
merino: merino wool > wool
lambswool: lamb wool > wool
cashmere > wool
mohair
alpaca
angora
polyester: polyesters
nylon: polyamide
viscose: rayon
modal
lyocell: tencel
acrylic
elastane: spandex, lycra
denim: denims
canvas
corduroy: cord, cords
velvet
velveteen
velour
fleece
flannel
tweed
chiffon
georgette
crepe
lace
mesh
jersey
terry: terry cloth, terrycloth, towelling
poplin
chambray
twill
chino cloth
khadi
brocade
organza
tulle
microfibre: microfiber
felt fabric: wool felt
hessian: burlap
jute
hemp
ramie
"""

MATERIALS = """
leather
suede: suede leather > leather
nubuck > leather
patent leather > leather
leatherette: pleather, pu leather, man made leather
fur
shearling
sheepskin
down filling
goose down > down filling
duck down > down filling
feather: feathers
bamboo
rattan
wicker
cork
straw
wood: wooden, timber
hardwood > wood
oak: oak wood > wood
walnut: walnut wood > wood
teak: teak wood > wood
pine: pine wood, pinewood > wood
mahogany > wood
maple: maple wood > wood
beech: beech wood, beechwood > wood
birch: birch wood > wood
acacia: acacia wood > wood
metal: metals
steel > metal
stainless steel > steel, metal
iron > metal
cast iron > iron, metal
wrought iron > iron, metal
aluminium: aluminum > metal
titanium > metal
brass > metal
bronze > metal
copper > metal
gold > metal
rose gold > gold, metal
silver > metal
sterling silver > silver, metal
platinum > metal
zinc > metal
zinc alloy > alloy, metal
pewter > metal
chrome > metal
alloy > metal
glass
crystal: crystals
ceramic: ceramics
porcelain > ceramic
bone china > porcelain
stoneware > ceramic
earthenware > ceramic
terracotta > ceramic
marble
granite
concrete
plastic: plastics
resin
rubber
silicone
latex
neoprene
foam
memory foam > foam
polyurethane: pu
pvc: vinyl
paper
cardboard
beeswax
soy wax
enamel
pearl: pearls
diamond: diamonds
ruby: rubies
emerald: emeralds
sapphire: sapphires
jade
onyx
quartz
amber
"""

GENERIC_TEXTILE = "fabric: fabrics, textile, textiles, cloth"
IMITATION = "faux fake imitation artificial synthetic vegan mock pseudo simulated"
MIXED = "blend mix"
# A coat of metal makes a thing no metal: "gold plated" is a material of its own.
PLATED = "plated plating plate"
PLATINGS = "gold silver chrome copper brass bronze nickel rhodium platinum"

GENDERS = """
women: woman, womens, ladies, lady, female, females, feminine, womanly, ladylike, gal, gals, womenswear
men: man, mens, gents, gentleman, gentlemen, male, males, masculine, manly, guy, guys, menswear
girls: girl, girly, girlish > kids
boys: boy, boyish > kids
kids: kid, child, children, childrens
baby: babies, infant, infants, toddler, toddlers
teens: teen, teenager, teenagers
adults: adult
unisex: men and women, women and men, men or women, women or men, gender neutral, him and her, him or her, his or hers
"""
# Whom a copy speaks of. Pronouns and some kin are grown or young; "kids" does not tell which.
PERSONS = {
    "her hers she herself daughter daughters sister sisters niece nieces": ("women", "girls"),
    "his him he himself son sons brother brothers nephew nephews": ("men", "boys"),
    "wife wives girlfriend girlfriends mother mothers mum mums mom moms aunt aunts grandmother grandmothers grandma"
    " bride brides": ("women",),
    "husband husbands boyfriend boyfriends father fathers dad dads uncle uncles grandfather grandfathers grandpa"
    " groom grooms": ("men",),
}

SEASONS = """
summer: summers, summery, summertime
winter: winters, wintry, wintertime
spring: springtime
fall: autumn, autumnal
monsoon: rainy season
all seasons: all season, any season, every season, year round, four seasons, all year
january
february
march
april
may
june
july
august
september
october
november
december
christmas: xmas, yuletide
easter
halloween
diwali
eid
thanksgiving
valentine: valentines
new year
ramadan
"""
SEASON_PAIRS = "summer winter spring fall autumn"

USAGES = """
casual: casually, casualwear
smart casual > casual
formal: formally, formalwear, black tie
business: office, boardroom, workwear
sports: sport, sporty, athletic, athletics, sporting
gym: workout, workouts, fitness, exercise
running: jogging
yoga
hiking: trekking
cricket
tennis
ethnic
party: parties, partywear
wedding: weddings, bridal
travel: travelling, traveling
home: home use
beach
school
festival: festivals, festive
date night
"""

SIZES = """
xs: extra small, x small
s: small
m: medium
l: large
xl: extra large, x large
xxl: 2xl, xx large, double extra large
xxxl: 3xl, triple extra large
one size: one size fits all, free size
plus size: plus sized
petite
oversized: oversize
king size: king sized
queen size: queen sized
"""

ORIGINS = """
italy: italian > europe
milan: milanese > italy, europe
france: french > europe
paris: parisian > france, europe
germany: german > europe
berlin > germany, europe
spain: spanish > europe
portugal: portuguese > europe
switzerland: swiss > europe
austria: austrian > europe
belgium: belgian > europe
netherlands: dutch > europe
poland: polish > europe
greece: greek > europe
britain: british > europe
england: english > britain, europe
london > england, britain, europe
scotland: scottish > britain, europe
wales: welsh > britain, europe
ireland: irish > europe
scandinavia: scandinavian, nordic > europe
denmark: danish > scandinavia, europe
norway: norwegian > scandinavia, europe
sweden: swedish > scandinavia, europe
finland: finnish > europe
europe: european
turkey: turkish
russia: russian
ukraine: ukrainian > europe
romania: romanian > europe
japan: japanese
tokyo > japan
china: chinese
india: indian
bangladesh: bangladeshi
pakistan: pakistani
sri lanka: sri lankan
nepal: nepalese
vietnam: vietnamese
thailand: thai
indonesia: indonesian
cambodia: cambodian
korea: korean
taiwan: taiwanese
america: american, usa
new york > america
canada: canadian
mexico: mexican
brazil: brazilian
peru: peruvian
argentina: argentinian
egypt: egyptian
morocco: moroccan
kenya: kenyan
ethiopia: ethiopian
australia: australian
"""

# How a thing looks and is cut, besides its colour. "Plain", "regular" and "short" alone are ordinary words.
PATTERNS = """
striped: stripe, stripes, pinstripe, pinstriped, pinstripes
checked: checkered, chequered, gingham
plaid: tartan
polka dot: polka dots, polka dotted, dotted
floral: flowered, flowery
paisley
animal print: leopard print, zebra print, snake print
camouflage: camo
herringbone
houndstooth
printed
embroidered: embroidery
solid colour: solid color, solid coloured, solid colored, single coloured
"""
SLEEVES = """
long sleeve: long sleeves, long sleeved, full sleeve, full sleeves, full sleeved
short sleeve: short sleeves, short sleeved, half sleeve, half sleeves, half sleeved
three quarter sleeve: three quarter sleeves, three quarter sleeved
sleeveless
cap sleeve: cap sleeves
"""
FITS = """
slim fit: slim fitting, slim cut
skinny fit: skinny
loose fit: loose fitting, relaxed fit, baggy
regular fit: regular cut, straight fit, straight cut
tailored fit
"""

# Names that are no English word, so that they count wherever they stand; names such as Gap or Guess are left to the
# check of capitalised words.
BRANDS = """
nike, adidas, reebok, asics, skechers, fila, crocs, birkenstock, timberland, lacoste, levi, levis, zara, uniqlo,
primark, gucci, prada, chanel, dior, versace, armani, burberry, hermes, givenchy, balenciaga, fendi, louis vuitton,
calvin klein, tommy hilfiger, ralph lauren, michael kors, hugo boss, ray ban, rolex, casio, timex, seiko, swarovski,
tiffany, pandora, lakme, revlon, maybelline, loreal, l'oreal, nivea, olay, garnier, ikea, samsung, disney,
quiksilver, wrangler, benetton, fabindia, fastrack, wildcraft, samsonite
"""

# Names that are English words too. Inside a sentence their capital gives them away; as its first word they count where
# an article, a material, a colour or "made" follows ("Gap jeans", "Guess made these").
BRANDS_OF_WORDS = "gap guess diesel mango puma next boss coach fossil vans converse jockey lee express"
