"""The articles the gate knows, as data, in the format of `gate.lexicon`. They are written in the singular and plurals
are derived; a leading `+` marks a noun that is used in the plural only, such as jeans.
"""

APPAREL = """
+jeans: jean > trousers
+trousers: trouser, pants, pant, slacks
+track pants: track pant, joggers, sweatpants > trousers
+lounge pants: lounge pant > trousers
+lounge shorts > shorts
+chinos > trousers
+capris: capri, capri pants > trousers
+leggings: legging
+jeggings: jegging > leggings
+tights
+stockings: stocking
+shorts
skirt
dress
gown > dress
nightdress: night dress, nightgown, nightie > dress
baby doll: babydoll > nightdress
shirt > top
t-shirt: tshirt, tee, t shirts, tee shirt > shirt, top
polo shirt > shirt, top, t-shirt
lounge t-shirt: lounge tshirt > t-shirt, top
top
blouse > top, shirt
tank top > top
crop top > top
camisole: cami > top
tunic > top
sweatshirt > top
hoodie: hooded sweatshirt > sweatshirt, top
sweater: jumper, pullover > top
cardigan > sweater, top
jacket
nehru jacket > jacket
rain jacket: raincoat > jacket
blazer > jacket
coat: overcoat, trench coat
parka > jacket
waistcoat > vest
vest
innerwear vest > vest
shrug
poncho
suit
night suit: pyjama set, pajama set > nightwear
+pyjamas: pajamas, pyjama, pajama > nightwear
nightwear: sleepwear, loungewear
tracksuit: track suit
jumpsuit
romper
+overalls: dungarees
bodysuit
kurta > top, tunic
kurti > kurta, top, tunic
kurta set > kurta
saree: sari
dupatta
lehenga choli: lehenga, lehnga choli, lehnga
salwar: shalwar > trousers
+churidar: churidars > trousers
patiala: patiala pants > salwar
clothing set
bra: brassiere
+briefs: panties, underpants, knickers
+boxers: boxer shorts
trunk
shapewear
swimwear: swimsuit, bikini, swimming costume
bath robe: bathrobe > robe
robe: dressing gown, kimono
apron
uniform
lingerie
innerwear: underwear, undergarments, innerwears
costume
"""

FOOTWEAR = """
+shoes: shoe
+sneakers: sneaker, trainers > shoes
+boots: boot > shoes
+booties: bootie > boots, shoes
+heels: high heels, stilettos, high heel > shoes
+flats > shoes
+ballerinas > flats, shoes
+wedges > heels, shoes
+pumps > heels, shoes
+loafers: loafer > shoes
+oxfords > shoes
+sandals: sandal > shoes
+flip flops: flip flop, flipflops > slippers, sandals
+slippers: slipper
+clogs
+moccasins > shoes
+floaters > sandals
"""

BAGS = """
handbag: purse, hand bag
clutch
backpack > rucksack
rucksack > backpack
duffel bag: duffle bag, duffel, duffle
laptop bag: laptop case
laptop backpack > backpack
messenger bag
trolley bag: suitcase
tote: tote bag
sling bag
satchel
luggage
waist pouch: fanny pack, bum bag > pouch
mobile pouch: phone pouch > pouch
tablet sleeve
pouch
"""

JEWELLERY = """
necklace
chain
necklace and chains > necklace, chain
pendant > necklace
+earrings: earring
ring
bracelet
bangle > bracelet
anklet
brooch
jewellery set: jewelry set
"""

ACCESSORIES = """
watch: wristwatch, timepiece
wallet: billfold
belt
+sunglasses: sunglass, eyewear > glasses
+glasses: spectacles, eyeglasses
scarf: scarves
stole > scarf
muffler > scarf
shawl
cap > hat
hat: headwear
beanie > hat, cap
headband: hairband
tie: necktie
bow tie > tie
+cufflinks: cufflink, cuff links
ties and cufflinks > tie, cufflinks
+suspenders: suspender, braces
+gloves: glove
mitten > gloves
+socks: sock
wristband
key chain: keychain, key ring, keyring
umbrella
mask and peel > mask
water bottle > bottle
bottle
+shoe laces: shoelaces, shoe lace
shoe accessory
travel accessory
beauty accessory
accessory gift set > gift set
fragrance gift set > gift set
gift set
free gift
handkerchief
football: soccer ball > ball
basketball > ball
ball
"""

COSMETICS = """
lipstick: lip colour, lip color
lip gloss: lipgloss
lip liner
lip care: lip balm
lip plumper
nail polish: nail lacquer, nail varnish, nail enamel, nail paint
+nail essentials: nail essential
eyeliner: eye liner
kajal: kohl
kajal and eyeliner > kajal, eyeliner
eyeshadow: eye shadow
mascara
foundation
primer
foundation and primer > foundation, primer
concealer
compact: compact powder, face powder
highlighter
blush: blusher
highlighter and blush > highlighter, blush
perfume: cologne, eau de toilette, eau de parfum, edt, edp > fragrance
body mist > fragrance
perfume and body mist > perfume, body mist
fragrance
deodorant: deo
face moisturiser: face moisturizer, moisturiser, moisturizer, face cream, day cream, night cream > cream
body lotion: lotion
hand cream > cream
eye cream > cream
cream
serum
sunscreen: sun screen, sunblock, sun cream
toner
mask
peel
face scrub > scrub
scrub
exfoliator
face scrub and exfoliator > scrub, exfoliator
face wash > cleanser
cleanser
face wash and cleanser > face wash, cleanser
hair colour: hair color, hair dye
shampoo
conditioner
soap
shower gel
bath salts
"""

HOME = """
cushion cover
cushion: pillow
blanket: throw blanket
mug
cup
teapot: tea pot
kettle
plate
bowl
vase
lamp
candle
towel
rug: carpet
curtain
tablecloth: table cloth
napkin
apron
basket
tray
jar
jug: pitcher
pan: frying pan, saucepan
pot
knife: knives
spoon
fork
chopping board: cutting board
coaster
clock
chair
stool
table runner
bedspread: bed spread, duvet cover
bed linen: bed sheet
planter
picture frame
mirror
doormat: door mat
toothbrush
comb
brush
"""

# What a whole section may be called. Product, item, piece, garment, accessory, outfit, wardrobe, look and style are
# left out on purpose: any product may be called that.
SECTIONS = (
    (APPAREL, ("article:clothing", "material:fabric")),
    (FOOTWEAR, ("article:footwear",)),
    (BAGS, ("article:bag",)),
    (JEWELLERY, ("article:jewellery",)),
    (ACCESSORIES, ()),
    (COSMETICS, ("article:make-up",)),
    (HOME, ("article:homeware",)),
)
SECTION_NAMES = """
clothing: clothes, apparel, menswear, womenswear, sportswear, activewear, streetwear
footwear
bag
jewellery: jewelry
make-up: makeup, cosmetics, cosmetic
homeware: home decor
furniture
gadget
toy
phone: smartphone
"""
