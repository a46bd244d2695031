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
monochrome: black and white
"""

# A shade makes another colour of these; "dark blue" is not stated by "blue", but may be called blue.
SHADED = "black white blue red green yellow brown pink purple orange grey gray beige teal khaki olive"
SHADES = "light dark pale deep bright neon pastel fluorescent dusty baby electric navy royal sky ice"

# Cloth of any kind is fabric; a mug of steel is not.
TEXTILES = """
cotton: cottons, pima
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
velvet: velveteen
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
down filling: goose down, duck down
feather: feathers
bamboo
rattan: wicker
cork
straw
wood: wooden, timber, hardwood
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
steel: stainless steel > metal
iron: cast iron, wrought iron > metal
aluminium: aluminum > metal
titanium > metal
brass > metal
bronze > metal
copper > metal
gold: gold plated, gold plating > metal
silver: sterling silver, silver plated > metal
platinum > metal
zinc: zinc alloy > metal
pewter > metal
chrome: chrome plated > metal
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
foam: memory foam
polyurethane: pu
pvc: vinyl
paper: cardboard
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
IMITATION = "faux fake imitation artificial synthetic vegan mock"
MIXED = "blend mix"

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
# Pronouns fit the grown and the young alike; "kids" does not tell which.
PRONOUNS = {"her hers she herself": ("women", "girls"), "his him he himself": ("men", "boys")}

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
italy: italian, milan
france: french, paris, parisian
japan: japanese, tokyo
china: chinese
india: indian
america: american, usa, new york
britain: british, english, england, london
scotland: scottish
ireland: irish
germany: german
spain: spanish
portugal: portuguese
switzerland: swiss
scandinavia: scandinavian, nordic, danish, swedish, norwegian
europe: european
egypt: egyptian
peru: peruvian
turkey: turkish
morocco: moroccan
australia: australian
mexico: mexican
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
