"""What the model is made of and learns from: one size, its subjects and their names."""

SIZE = 128  # pixels of a picture's side
FACTOR = 8  # pixels to a latent, along a side
SPRITE = 192  # pixels of a drawing's side before it is scaled into a picture


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


SUBJECTS = _names("""
    airplane, alarm clock, alien, ambulance, anchor, artist palette, avocado, axe, backpack, bacon, balloon, banana,
    baseball, basketball, bat, bear, bed, bee, bell, bell pepper, bicycle, bird, birthday cake, blueberries, bomb,
    books, bread, briefcase, broccoli, bubble tea, bus, butterfly, cactus, camel, camera, candle, candy, car, carrot,
    castle, cat, chair, cheese, cherries, chocolate bar, christmas tree, church, cloud, cocktail glass, coffee, compass,
    cookie, cow, crab, crocodile, croissant, crown, cucumber, cupcake, diamond, dice, dinosaur, dog, dolphin, donut,
    door, dragon, dress, drum, duck, eagle, egg, eggplant, elephant, envelope, feather, ferris wheel, fire, fish,
    flamingo, flying saucer, four leaf clover, fox, french fries, frog, gear, ghost, gift, giraffe, glasses, globe,
    goat, gorilla, graduation cap, grapes, green apple, guitar, hamburger, hammer, headphones, hedgehog, helicopter,
    hippopotamus, horse, hot dog, hot pepper, house, ice cream cone, jeans, jellyfish, kangaroo, key, kite, kiwi fruit,
    koala, ladder, ladybug, laptop, lemon, light bulb, lion, llama, lobster, locomotive, lollipop, magnet, maple leaf,
    microphone, mobile phone, money bag, monkey, moon, motorcycle, mountain, mouse, mushroom, octopus, onion, orange,
    owl, palm tree, pancakes, panda, parrot, peach, pear, pencil, penguin, pig, pine tree, pineapple, pizza, planet,
    polar bear, popcorn, potted plant, pretzel, pumpkin, rabbit, raccoon, rainbow, red apple, red heart, rhinoceros,
    ring, robot, rocket, rooster, rose, sailboat, sandwich, saxophone, scissors, shark, shield, skateboard, skull,
    snail, snake, snowflake, snowman, soccer ball, socks, spider, star, strawberry, sun, sunflower, sunglasses, swan,
    t-rex, taco, taxi, teapot, teddy bear, television, tent, tiger, tomato, top hat, tornado, tractor, trophy, trumpet,
    tulip, turtle, umbrella, unicorn, violin, volcano, waffle, watch, watermelon, whale, wine glass, wolf, zebra
""")

# Pictures of two subjects show these only: two of several hundred would each be met too seldom to be learnt apart.
PAIR_SUBJECTS = _names("""
    airplane, balloon, banana, bee, bicycle, bird, bus, butterfly, cactus, car, carrot, castle, cat, dog, duck,
    elephant, fish, fox, frog, ghost, guitar, hamburger, house, lemon, lion, moon, mushroom, owl, panda, penguin, pig,
    pizza, rabbit, red apple, robot, rocket, star, strawberry, sun, unicorn
""")

# Plain words for drawings whose own names nobody would type.
PLAIN_WORDS = {
    "cat": "cat-face", "cow": "cow-face", "dog": "dog-face", "dragon": "dragon-face", "horse": "horse-face",
    "monkey": "monkey-face", "mouse": "mouse-face", "pig": "pig-face", "rabbit": "rabbit-face", "sun": "sun-with-face",
    "tiger": "tiger-face", "moon": "full-moon-face", "car": "automobile", "coffee": "hot-beverage",
    "gift": "wrapped-gift", "cheese": "cheese-wedge", "bee": "honeybee", "planet": "ringed-planet",
    "diamond": "gem-stone", "pine tree": "evergreen-tree", "pumpkin": "jack-o-lantern",
    "ice cream cone": "soft-ice-cream", "dinosaur": "sauropod", "donut": "doughnut", "ladybug": "lady-beetle",
    "orange": "tangerine", "globe": "globe-showing-americas", "dice": "game-die", "headphones": "headphone",
    "clown": "clown-face",
}  # fmt: skip

# Of Unicode's keywords, those that name the thing itself ("puppy"), not what it brings to mind ("adorbs").
SYNONYMS = _names("""
    aeroplane, alpaca, ape, aubergine, automobile, ax, bike, bilberry, blueberry, boba, bookbag, boulder, brachiosaurus,
    brontosaurus, buffalo, bulb, bumblebee, bunny, burger, buttercup, cab, cantaloupe, capsicum, cherry, cog, cogwheel,
    computer, concertina, copter, cygnet, dandelion, diplodocus, doughnut, dromedary, dynamite, earth, earthworm, elk,
    email, evergreen, eyeglasses, football, frankfurter, fries, gander, gem, grape, grasshopper, grizzly, hatchet,
    hippo, honeybee, hotcake, hotdog, jet, jewel, kitten, kitty, kiwi, ladybird, letter, loaf, martini, mic, mollusk,
    nectarine, pancake, pants, peahen, peanut, pickup, plane, present, pudding, puppy, reptile, rucksack, sapling,
    satchel, saturn, saucer, sauropod, sausage, sax, scooter, seat, serpent, shoe, skates, sneaker, spanner, sprout,
    squeezebox, squirrel, stocking, tangerine, teddy, terrapin, tie, toadstool, toast, tortoise, trousers, tv,
    tyrannosaurus, whirlwind, wisent, yacht
""")

# Every artist draws these with the head to the left.
FACING_LEFT = _names("""
    dinosaur, flamingo, giraffe, goat, hippopotamus, llama, locomotive, parrot, rooster, snail, swan, t-rex, unicorn,
    whale, zebra
""")
