"""The words of the contrast guard: which exclude one another, which are mere details of a noun, which are symmetric.

Set -> its members; a member is a list of words or phrases divided by bars, a star adds the forms of a regular verb, and
a member goes by its first word.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# What a sentence tells of, by sets whose members exclude one another.
EVENT_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "shape": (
            "square|squares|rectangle|rectangles|box|boxes",
            "circle|circles|disc|discs|disk|disks|ball|balls|sphere|spheres",
            "triangle|triangles",
            "star|stars",
            "diamond|diamonds|rhombus",
            "cross|crosses",
            "hexagon|hexagons",
            "pentagon|pentagons",
        ),
        "side": ("left|leftward|leftwards", "right|rightward|rightwards"),
        "vertical": (
            "up|upward|upwards|upstairs|rise*|rose|risen|raise*|ascend*|climb*|lift*",
            "down|downward|downwards|downstairs|fall*|fell|fallen|descend*|sink*|sank|sunk|lower*|dive*|dove",
        ),
        "height": ("above|top|upper|over", "below|bottom|beneath|under|underneath"),
        "depth": (
            "forward|forwards|approach*|closer|nearer",
            "backward|backwards|back up|backs up|recede*|retreat*|farther|further away",
        ),
        "visibility": (
            "appear*|reappear*|emerge*|show* up|pop* up|fade* in|come* into view|came into view|come* into|comes in|"
            "become* visible|became visible|surface*",
            "disappear*|vanish*|fade* out|fade* away|go* away|goes away|went away|no longer|out of view|out of sight|"
            "submerge*",
        ),
        "reveal": ("reveal*|uncover*|unveil*|expose*", "hide*|hid|hidden|conceal*|cover*|veil*"),
        "open": ("open*|unlock*", "close*|shut|shuts|shutting|lock*"),
        "passage": (
            "enter*|arrive*|come* in|came in|walk* in|walk* into|go* in|goes in|went in|get* in|get* into|got in|"
            "got into|board*",
            "exit*|leave*|left the|depart*|come* out|came out|walk* out|go* out|goes out|went out|get* out|got out|"
            "get* off|got off",
        ),
        "run": (
            "start*|begin|begins|began|begun|beginning|resume*",
            "stop|stops|stopped|stopping|end*|finish*|halt*|cease*|pause*|quit|quits|quitting|shut* down|shuts down",
        ),
        "switch": (
            "turn* on|switch* on|power* on|light* up|is on",
            "turn* off|switch* off|power* off|is off|goes out",
        ),
        "zoom": ("zoom* in", "zoom* out"),
        "hold": (
            "pick* up|pick*|grab|grabs|grabbed|grabbing|catch*|caught",
            "drop|drops|dropped|dropping|release*|throw*|threw|thrown|toss*|put* down|set* down",
        ),
        "force": ("push*|shove*", "pull*|drag|drags|dragged|dragging"),
        "wear": ("put* on|putting on|don|dons", "take* off|takes off|taking off|took off"),
        "posture": (
            "stand*|stood|stand* up|stood up|get* up|got up|get* to his feet|get* to her feet",
            "sit|sits|sitting|sat|sit* down|sitting down|sat down|lie* down|lay down|lies|lying|take* a seat",
        ),
        "sleep": ("wake*|wakes up|woke|awake", "sleep*|slept|fall* asleep|falls asleep|asleep"),
        "growth": ("grow*|grew|grown|expand*|inflate*|swell*", "shrink*|shrank|contract*|deflate*"),
        "speed": (
            "fast|faster|quickly|rapidly|accelerate*|speed* up|sped up",
            "slow|slower|slowly|decelerate*|slow* down|slows|slowed|brake*",
        ),
        "amount": ("increase*|gain*|more", "decrease*|fewer|less|reduce*"),
        "change": ("add|adds|added|adding|insert*|attach*", "remove*|subtract*|extract*"),
        "day": ("day|daytime|daylight|sunrise|dawn|morning", "night|nighttime|sunset|dusk|evening"),
        "place": ("indoors|indoor|inside", "outdoors|outdoor|outside"),
        "person": (
            "man|men|boy|boys|male|father|son|brother|husband|groom|gentleman",
            "woman|women|girl|girls|female|lady|ladies|mother|daughter|sister|wife|bride",
        ),
        "age": (
            "adult|adults|parent|parents|old|elderly",
            "child|children|kid|kids|baby|babies|toddler|young",
        ),
        "order": ("first", "second", "third", "fourth", "fifth", "last|final"),
        "fill": ("fill*|full|refill*", "empty|empties|emptied|emptying|drain*"),
        "success": (
            "succeed*|win|wins|won|winning|score*|hit|hits|hitting",
            "fail*|lose*|lost|miss*",
        ),
        "approval": ("cheer*|applaud*|clap|claps|clapped|clapping", "boo|boos|booed|booing|jeer*"),
        "mood": ("happy|happily|smile*|laugh*|giggle*", "sad|sadly|cry|cries|crying|cried|frown*|weep*|wept|sob|sobs"),
        "nod": ("nod|nods|nodded|nodding", "shakes his head|shakes her head|shakes their head"),
        "heat": ("hot|heat*|warm*|boil*", "cold|cool*|freeze*|froze|frozen|chill*"),
        "light": ("bright|brighter|brighten*", "dark|darker|darken*|dim|dims|dimmed"),
        "wetness": ("wet|wets|soak*", "dry|dries|dried|drying"),
        "cleanness": ("clean*|wash*|wipe*", "dirty|dirties|dirtied|stain*"),
        "rotation": ("clockwise", "counterclockwise|anticlockwise|counter clockwise|anti clockwise"),
        "join": ("connect*|join*|merge*|assemble*", "detach*|disconnect*|separate*|split|splits|disassemble*"),
        "making": (
            "build*|built|construct*|set* up",
            "destroy*|demolish*|knock* down|tear* down|tore down|break* down",
        ),
        "meeting": ("meet|meets|met|meeting|unite*|reunite*", "part|parts|parted|parting"),
        "trade": ("buy|buys|bought|buying|purchase*", "sell|sells|sold|selling"),
        "lend": ("lend|lends|lent|lending", "borrow*"),
        "send": ("send|sends|sent|sending", "receive*"),
        "teach": ("ask|asks|asked|asking|question*", "answer*|reply|replies|replied"),
        "gait": ("walk*|stroll*", "run|runs|running|ran|sprint*", "swim|swims|swam|swimming", "fly|flies|flew|flying"),
        "flight": ("take* off|took off|lift* off", "land|lands|landed|landing"),
        "melting": ("freeze*|froze|frozen|solidify", "melt*|thaw*"),
        "edge": ("sharpen*", "blunt*|dull*"),
        "consent": ("accept*|approve*|allow*", "reject*|decline*|forbid|forbids|deny|denies|denied"),
        "love": ("love*|like|likes|liked", "hate*|dislike*"),
        "praise": ("praise*|congratulate*", "criticise*|criticize*|scold*|insult*"),
        "help": ("help*|assist*|support*", "hinder*|block*|obstruct*"),
        "fasten": ("tie|ties|tied|tying|fasten*|buckle*", "untie|unties|untied|untying|loosen*|unbuckle*"),
        "import": ("import*|upload*", "export*|download*"),
        "front": ("front|in front", "behind|rear|back of"),
        "pace": ("early|earlier", "late|later"),
        "thickness": ("thick|thicker|wide|wider|widen*", "thin|thinner|narrow|narrower"),
        "weight": ("heavy|heavier", "light weight|lighter"),
        "volume": ("loud|louder|loudly|shout*|yell*|scream*", "quiet|quieter|quietly|whisper*|silent|silently"),
        "voice": ("laugh*|giggle*", "shout*|yell*|scream*"),
        "side of a fight": ("attack*", "defend*"),
    }
)

# Things that a sentence is about; it may name one more than the other sentence does.
THING_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "animal": (
            "dog|dogs|puppy|puppies",
            "cat|cats|kitten|kittens",
            "horse|horses|pony|ponies",
            "cow|cows|bull|bulls|cattle",
            "sheep|lamb|lambs",
            "goat|goats",
            "pig|pigs",
            "bird|birds|pigeon|pigeons|seagull|seagulls",
            "chicken|chickens|hen|hens|rooster",
            "duck|ducks",
            "lion|lions",
            "tiger|tigers",
            "bear|bears",
            "elephant|elephants",
            "monkey|monkeys",
            "rabbit|rabbits",
            "mouse|mice",
            "fish|fishes",
            "shark|sharks",
            "whale|whales",
            "snake|snakes",
            "deer",
            "fox|foxes",
            "wolf|wolves",
            "giraffe|giraffes",
            "zebra|zebras",
            "buffalo|buffaloes",
        ),
        "vehicle": (
            "car|cars|taxi|taxis|sedan|sedans",
            "truck|trucks|lorry|lorries",
            "van|vans",
            "bus|buses",
            "bicycle|bicycles|bike|bikes",
            "motorcycle|motorcycles|motorbike|motorbikes|scooter|scooters",
            "train|trains",
            "tram|trams",
            "boat|boats|ship|ships",
            "plane|planes|airplane|airplanes|aeroplane",
            "helicopter|helicopters",
            "tractor|tractors",
        ),
        "instrument": (
            "guitar|guitars",
            "piano|pianos",
            "violin|violins",
            "drum|drums",
            "flute|flutes",
            "trumpet|trumpets",
            "cello|cellos",
            "saxophone|saxophones",
            "harp|harps",
        ),
        "drink": ("milk", "coffee", "tea", "juice", "beer", "wine", "water"),
        "food": (
            "apple|apples",
            "banana|bananas",
            "tomato|tomatoes",
            "onion|onions",
            "potato|potatoes",
            "carrot|carrots",
            "egg|eggs",
            "bread",
            "rice",
            "cheese",
            "garlic",
            "pepper",
            "salt",
            "sugar",
            "butter",
            "flour",
            "chocolate",
        ),
        "sport": (
            "football|soccer",
            "basketball",
            "tennis",
            "volleyball",
            "baseball",
            "hockey",
            "golf",
            "badminton",
            "cricket",
        ),
        "room": ("kitchen", "bathroom", "bedroom", "garage", "office", "classroom", "hallway|corridor"),
        "weather": ("rain*|rainy", "snow*|snowy", "sunny", "cloudy|overcast", "fog|foggy"),
        "tool": ("knife|knives", "fork|forks", "spoon|spoons", "hammer|hammers", "saw|saws", "scissors"),
    }
)

# What a noun has; the same words may stand in two sentences and yet go with other nouns.
DETAIL_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "colour": (
            "red|crimson|scarlet",
            "green",
            "blue|navy",
            "yellow|golden",
            "orange",
            "purple|violet",
            "pink|magenta",
            "brown",
            "black",
            "white",
            "grey|gray|silver",
            "cyan|turquoise|teal",
        ),
        "size": (
            "large|larger|big|bigger|huge|giant|tall|taller|long|longer",
            "small|smaller|tiny|little|short|shorter",
        ),
    }
)

# Phrases whose words mean something else than alone.
_NEUTRAL = """
right now | right away | right after | right before | right at | right when | right next | right behind | right beside
| left over | left behind | is left | are left | close to | close up | close by | close behind | close together | end
of | in the end | up to | top of | start of | first time | last time | at first | at last | at the end | over to | over
there | all over | run over | fall over | under way | more than | less than | once more | no more | any more | part of
| last of | first of | as long as | so long | pick out | picks out | picked out | join* in | look* up | make* up |
give* up | gave up | end* up | settle* down | calm* down | write* down | wrote down | stand* still | sit* still | sits
still | take* place | take* off running | takes off running | no longer than | the leaves | leaves are | leaves fall |
leaves from | light* up a | get* ready | get* into position | fall* in love | fall* from | falling from | cut* off |
first aid | second later | seconds later | a second | each second | one second | at once | back and forth | the open |
the closed | an open | a closed | half open | like a | looks like | look like | later on | cross the | crosses the |
crossed the | crossing the | ball game | match point | star* at | part* way
"""
NEUTRAL = tuple(" ".join(phrase.split()) for phrase in _NEUTRAL.split("|"))

NEGATIONS = frozenset({"no", "not", "never", "without", "nothing", "nobody", "none", "neither", "cannot", "nowhere"})
# Verbs that deny by their meaning: "fails to catch" is "does not catch".
_DENIALS = "fail fails failed failing miss misses missed missing lack lacks lacked unable refuse refuses refused"
DENIALS = frozenset(_DENIALS.split())
# They deny only beside a negation: "the room is empty" is "no one is in the room".
ABSENCES = frozenset({"empty", "absent", "invisible", "deserted", "vacant", "gone"})

# Who goes first says nothing here: A meets B, B meets A.
_SYMMETRIC = """
meet kiss hug embrace marry collide beside next near with alongside touch opposite between join dance match equal
differ shake together each close
"""
SYMMETRIC = frozenset(_SYMMETRIC.split())
# Word -> the set that it relates two things in, and whether its two sides are exchanged: B is left of A where A is
# right of B.
RELATIONS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "left": ("side", False),
        "right": ("side", True),
        "above": ("height", False),
        "over": ("height", False),
        "below": ("height", True),
        "beneath": ("height", True),
        "under": ("height", True),
        "underneath": ("height", True),
        "front": ("front", False),
        "behind": ("front", True),
        "before": ("time", False),
        "after": ("time", True),
    }
)
