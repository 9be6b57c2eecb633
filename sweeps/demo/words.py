"""The words of the demo stories: people, places, things, colours, numbers.

Six kinds of place, one per `source` of the data set, so that a table by source
means something.  Kept near four hundred words: with a vocabulary of 1,024
tokens most of them are one token, and a document stays short.
"""

GIRLS = ("Anna Mary Lucy Emma Rosa Clara Nina Ella Julia Sara Helen Ruth Maya Lena Alice Vera "
         "Edith Nora Tina Grace").split()
BOYS = ("Tom Ben Jack Peter Sam Max Leo Paul Oscar Hugo Adam Simon Felix Ivan Karl Daniel Noah "
        "Emil Ralph Victor").split()

COLOURS = "red blue green yellow black white brown grey pink purple orange silver".split()
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
WEATHER = "sunny rainy cold windy warm cloudy".split()
SIZES = "small big old new broken heavy".split()
FOOD = "tea milk soup bread honey rice cake fish cheese jam".split()
RELATIONS = {"f": "sister aunt cousin friend teacher".split(),
             "m": "brother uncle cousin friend teacher".split()}
FEELINGS = [("tired", "went home"), ("hungry", "ate some bread"), ("sad", "sat down"),
            ("happy", "sang a song"), ("thirsty", "drank some water"), ("bored", "read a book")]

FILLERS = ["It was a long day.", "Nobody was in a hurry.", "The sun was low.",
           "Everyone laughed.", "A bell rang far away.", "They talked for a while.",
           "The wind was strong.", "It was very quiet."]

# (past, infinitive): what a person does to get one thing, to put it away, to get many things
GET = [("had", "have"), ("brought", "bring"), ("found", "find"), ("made", "make"),
       ("bought", "buy")]
PUT = [("put", "put"), ("left", "leave"), ("hid", "hide")]
GATHER = [("picked", "pick"), ("counted", "count"), ("carried", "carry"), ("washed", "wash"),
          ("packed", "pack")]
GO = [("walked", "walk"), ("ran", "run"), ("went", "go")]

COMMON_THINGS = "ball key lamp hat scarf book bag cup box coat knife ring bell clock".split()

# scene: where they all are; spots: where things lie; rooms: where one walks to;
# things: single; goods: gathered in numbers; animals; jobs
SOURCES = {
    "home": {
        "scene": ["at home", "in the old house"],
        "spots": ["in the kitchen", "under the bed", "on the table", "behind the door",
                  "in the garden", "on the shelf"],
        "rooms": ["the kitchen", "the garden", "the cellar", "the attic"],
        "things": "pillow plate doll chair".split(),
        "goods": "cups plates socks candles".split(),
        "animals": "cats mice birds".split(),
        "jobs": "cook painter nurse".split(),
    },
    "farm": {
        "scene": ["at the farm", "in the field"],
        "spots": ["in the barn", "behind the gate", "near the pond", "under the tree",
                  "by the fence", "on the cart"],
        "rooms": ["the barn", "the pond", "the stable", "the mill"],
        "things": "rope shovel bucket saddle".split(),
        "goods": "apples eggs pears carrots".split(),
        "animals": "cows sheep goats hens".split(),
        "jobs": "farmer miller vet".split(),
    },
    "market": {
        "scene": ["at the market", "in the town"],
        "spots": ["in the basket", "under the stall", "on the counter", "behind the shop",
                  "near the fountain", "by the bridge"],
        "rooms": ["the shop", "the fountain", "the bakery", "the bridge"],
        "things": "basket coin carpet mirror".split(),
        "goods": "lemons onions nuts flowers".split(),
        "animals": "dogs pigeons donkeys".split(),
        "jobs": "baker tailor merchant".split(),
    },
    "school": {
        "scene": ["at school", "in the library"],
        "spots": ["in the desk", "on the chair", "under the stairs", "behind the curtain",
                  "near the window", "in the hall"],
        "rooms": ["the hall", "the library", "the yard", "the office"],
        "things": "pen map ruler flute".split(),
        "goods": "pencils stamps cards letters".split(),
        "animals": "rabbits fish frogs".split(),
        "jobs": "teacher doctor writer".split(),
    },
    "harbour": {
        "scene": ["at the harbour", "on the beach"],
        "spots": ["in the boat", "under the bench", "on the pier", "behind the wall",
                  "near the tower", "by the water"],
        "rooms": ["the pier", "the tower", "the beach", "the ship"],
        "things": "net oar flag bottle".split(),
        "goods": "shells stones crabs ropes".split(),
        "animals": "gulls seals ducks".split(),
        "jobs": "sailor fisher captain".split(),
    },
    "forest": {
        "scene": ["in the forest", "at the camp"],
        "spots": ["in the tent", "under the bush", "on the rock", "behind the oak",
                  "near the fire", "by the river"],
        "rooms": ["the cave", "the river", "the hut", "the hill"],
        "things": "axe drum torch blanket".split(),
        "goods": "berries mushrooms leaves branches".split(),
        "animals": "foxes deer owls".split(),
        "jobs": "hunter guide singer".split(),
    },
}
