"""One story: a few events in sentences, and the questions each of them can answer.

`Story(source, rng)` draws people and events; `.sentences` is the text, `.events`
holds per event the `Ask`s, whose wording stays open (name or pronoun) until the
conversation is known.
"""

from dataclasses import dataclass, field

import words as w


@dataclass(frozen=True)
class Person:
    name: str
    sex: str

    def word(self, case, pronoun):
        if not pronoun:
            return self.name + "'s" if case == "p" else self.name
        return {"f": {"s": "she", "o": "her", "p": "her"},
                "m": {"s": "he", "o": "him", "p": "his"}}[self.sex][case]


@dataclass(frozen=True)
class Thing:
    noun: str
    plural: bool = False

    def word(self, case, pronoun):
        if not pronoun:
            return "the " + self.noun
        return {"s": "they", "o": "them"}[case] if self.plural else "it"


@dataclass
class Ask:
    """A question in open wording.  `forms` hold {x:case} for the entities in `who`."""

    kind: str
    forms: list
    who: dict
    answer: str
    style: str                       # how other people would word the answer: variants()
    sentence: int                    # index of the sentence that tells
    tells: set = field(default_factory=set)   # what the answer gives away
    wants: str = ""                  # not asked once this was given away
    tag: str = ""
    after: str = ""                  # only directly after the question of this tag
    subject: object = None           # the entity that the answer names, for later pronouns


def a(phrase):
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


class Story:
    def __init__(self, source, rng):
        self.rng = rng
        self.place = w.SOURCES[source]
        self.sentences = []
        self.events = []
        self.done = set()            # (person, verb) pairs: each once, so answers are unique
        n_people = rng.choice([2, 3, 3])
        girls = [Person(n, "f") for n in rng.sample(w.GIRLS, 2)]
        boys = [Person(n, "m") for n in rng.sample(w.BOYS, 2)]
        self.people = ([girls[0], boys[0], rng.choice([girls[1], boys[1]])])[:n_people]
        rng.shuffle(self.people)
        self.colours = rng.sample(w.COLOURS, len(w.COLOURS))
        self.things = rng.sample(w.COMMON_THINGS, 4) + rng.sample(self.place["things"], 3)
        rng.shuffle(self.things)
        self.goods = rng.sample(self.place["goods"], 2)
        self.spots = rng.sample(self.place["spots"], 6)
        self.lair = next(x for x in self.spots if not x.startswith(("in ", "on ")))   # of animals
        self.spots.remove(self.lair)
        self.rooms = rng.sample(self.place["rooms"], 4)
        self.build()

    def build(self):
        rng = self.rng
        self.scene()
        events = [self.keep, self.keep, self.gather, self.see, self.explore, self.give, self.like,
                  self.feel, self.role, self.age, self.relation]
        target = rng.choice([3, 4, 4, 5])
        first = rng.choice([self.role, self.relation, self.age, None, None])
        if first:
            first()
        body = rng.sample(events[:8] + [self.gather], target)
        for event in body:
            event()
            if rng.random() < 0.1:
                self.sentences.append(rng.choice(w.FILLERS))

    # -- helpers ------------------------------------------------------------------------------
    def say(self, text):
        self.sentences.append(text)
        return len(self.sentences) - 1

    def then(self):
        return self.rng.choice(["", "", "", "Then ", "Later ", "After that "])

    def doer(self, *verbs):
        """Someone who has not yet done any of these verbs, or None."""
        free = [p for p in self.people if not any((p, v) in self.done for v in verbs)]
        if not free:
            return None
        person = self.rng.choice(free)
        self.done.update((person, v) for v in verbs)
        return person

    def other(self, *people):
        rest = [p for p in self.people if p not in people]
        return self.rng.choice(rest) if rest else None

    def yes_no(self, forms, who, truth, sentence, **more):
        return Ask("yes-no", forms, who, "yes" if truth else "no", "yes-no", sentence, **more)

    # -- events -------------------------------------------------------------------------------
    def scene(self):
        rng = self.rng
        names = [p.name for p in self.people]
        all_of_them = ", ".join(names[:-1]) + " and " + names[-1]
        weather, day = rng.choice(w.WEATHER), rng.choice(w.DAYS)
        where = rng.choice(self.place["scene"])
        s = self.say(rng.choice([
            f"On {a(weather)} {day} {all_of_them} were {where}.",
            f"It was {a(weather)} {day}, and {all_of_them} were {where}.",
        ]))
        wrong = rng.choice([x for x in w.WEATHER if x != weather])
        asked = rng.choice([weather, wrong])
        lead = rng.choice(self.people)
        self.events.append([
            Ask("what", ["What day was it?", "Which day was it?"], {}, day, "word", s),
            Ask("where", ["Where were the people?", "Where was everyone?"], {}, where, "place", s),
            Ask("who", ["Who was with {p:o}?", "Who was there with {p:o}?"], {"p": lead},
                " and ".join(x.name for x in self.people if x is not lead), "people", s),
            Ask("what", ["What was the weather like?", "How was the weather?"], {}, weather, "word",
                s, tells={"weather"}),
            Ask("how many", ["How many people were there?"], {},
                w.NUMBERS[len(names) - 1], "number:people", s),
            self.yes_no([f"Was it {a(asked)} day?", f"Was the day {asked}?"], {}, asked == weather,
                        s, tells={"weather"}),
        ])

    def role(self):
        p, job = self.doer("job"), self.rng.choice(self.place["jobs"])
        s = self.say(f"{p.name} was {a(job)}.")
        q = self.other(p)
        asked = self.rng.choice([p, q])
        self.events.append([
            Ask("what", ["What was {p:p} job?", "What was {p:s}?"], {"p": p}, a(job), "noun", s,
                tells={"job"}, wants="job"),
            Ask("who", [f"Who was the {job}?", f"Who was {a(job)}?"], {}, p.name, "name", s,
                tells={"job"}, wants="job", subject=p),
            self.yes_no(["Was {p:s} " + a(job) + "?"], {"p": asked}, asked is p, s, tells={"job"},
                        wants="job"),
        ])

    def age(self):
        p = self.doer("age")
        n = self.rng.choice(w.NUMBERS[5:])
        s = self.say(f"{p.name} was {n} years old.")
        self.events.append([
            Ask("how many", ["How old was {p:s}?"], {"p": p}, n, "number:years old", s,
                tells={"age"}, wants="age"),
            Ask("who", [f"Who was {n} years old?", f"Who was {n}?"], {}, p.name, "name", s,
                tells={"age"}, wants="age", subject=p),
        ])

    def relation(self):
        p = self.doer("relation")
        q = self.other(p)
        kin = self.rng.choice(w.RELATIONS[p.sex])
        s = self.say(f"{p.name} was {q.name}'s {kin}.")
        wrong = self.rng.choice([k for k in w.RELATIONS[p.sex] if k != kin])
        asked = self.rng.choice([kin, wrong])
        self.events.append([
            Ask("who", ["Who was {p:s}?"], {"p": p}, f"{q.name}'s {kin}", "phrase", s,
                tells={"kin"}, wants="kin", subject=p),
            Ask("who", ["Who was {q:p} " + kin + "?"], {"q": q}, p.name, "name", s,
                tells={"kin"}, wants="kin", subject=p),
            self.yes_no(["Was {p:s} {q:p} " + asked + "?"], {"p": p, "q": q}, asked == kin, s,
                        tells={"kin"}, wants="kin"),
        ])

    def keep(self):
        """Someone gets a thing and puts it somewhere; perhaps someone else moves it."""
        rng = self.rng
        past, verb = rng.choice(w.GET)
        p = self.doer(verb)
        if p is None:
            return
        colour, thing = self.colours.pop(), Thing(self.things.pop())
        what = a(f"{colour} {thing.noun}")
        s1 = self.say(f"{self.then()}{p.name} {past} {what}.")
        put_past, put = rng.choice(w.PUT)
        spot = self.spots.pop()
        s2 = self.say(f"{p.word('s', True).capitalize()} {put_past} it {spot}.")
        who = {"p": p, "t": thing}
        fake = rng.choice([colour, rng.choice(self.colours)])
        asks = [
            Ask("what", ["What did {p:s} " + verb + "?"], {"p": p}, what, "noun", s1,
                tells={"thing", "colour"}, wants="thing", tag="get", subject=thing),
            Ask("who", ["Who " + past + " {t:o}?", f"Who {past} {a(thing.noun)}?"], {"t": thing},
                p.name, "name", s1, tells={"thing", "owner"}, wants="owner", subject=p),
            Ask("what colour", ["What colour was {t:s}?", "Which colour was {t:s}?"], {"t": thing},
                colour, "word", s1, tells={"thing", "colour"}, wants="colour"),
            Ask("what colour", ["What colour?"], {}, colour, "word", s1, tells={"thing", "colour"},
                wants="colour", after="has"),
            self.yes_no(["Was {t:s} " + fake + "?"], {"t": thing}, fake == colour, s1,
                        tells={"thing", "colour"}, wants="colour"),
            Ask("where", ["Where did {p:s} " + put + " {t:o}?"], who, spot, "place", s2,
                tells={"thing", "spot"}, wants="spot", subject=thing),
        ]
        asks += [
            Ask("what", ["What did {p:s} " + put + " " + spot + "?"], {"p": p}, what, "noun", s2,
                tells={"thing", "colour", "spot"}, wants="thing", subject=thing),
            Ask("who", [f"Who {put_past} something {spot}?"], {}, p.name, "name", s2,
                tells={"owner", "spot"}, wants="owner", subject=p),
        ]
        r = self.other(p)
        asked = rng.choice([p, r])
        asks.append(self.yes_no(["Did {p:s} " + verb + " " + a(thing.noun) + "?"],
                                {"p": asked, "t": thing}, asked is p, s1, tells={"thing", "owner"},
                                wants="owner", tag="has" if asked is p else "has not"))
        asks.append(Ask("who", ["Who did?"], {}, p.name, "name", s1, tells={"thing", "owner"},
                        after="has not", subject=p))
        if rng.random() < 0.35:
            q = self.other(p)
            spot2 = self.spots.pop()
            s3 = self.say(f"Later {q.name} took the {thing.noun} and left it {spot2}.")
            asks += [
                Ask("who", ["Who took {t:o}?", "Who moved {t:o}?"], {"t": thing}, q.name, "name",
                    s3, tells={"thing", "mover"}, wants="mover", subject=q),
                Ask("where", ["Where was {t:s} in the end?", "Where was {t:s} at last?"],
                    {"t": thing}, spot2, "place", s3, tells={"thing", "end"}, wants="end",
                    subject=thing),
                Ask("where", ["Where did {q:s} leave {t:o}?"], {"q": q, "t": thing}, spot2, "place",
                    s3, tells={"thing", "end", "mover"}, wants="end", subject=thing),
            ]
            if put == "leave":       # "where did she leave it" must have one answer
                asks[-1].wants = "never"
        self.events.append(asks)

    def gather(self):
        """Someone gathers many things, and perhaps gives some of them away."""
        rng = self.rng
        past, verb = rng.choice(w.GATHER)
        p = self.doer(verb)
        if p is None or not self.goods:
            return
        goods, colour = Thing(self.goods.pop(), plural=True), self.colours.pop()
        n = rng.randrange(3, 13)
        s1 = self.say(f"{self.then()}{p.name} {past} {w.NUMBERS[n - 1]} {colour} {goods.noun}.")
        who = {"p": p, "t": goods}
        fake = rng.choice([colour, rng.choice(self.colours)])
        asks = [
            Ask("what", ["What did {p:s} " + verb + "?"], {"p": p}, goods.noun, "things", s1,
                tells={"thing"}, wants="thing", tag="what", subject=goods),
            Ask("how many", ["How many?"], {"t": goods}, w.NUMBERS[n - 1], "number:" + goods.noun,
                s1, tells={"thing", "number"}, wants="number", after="what"),
            Ask("how many", ["How many " + goods.noun + " did {p:s} " + verb + "?",
                             "How many of {t:o} did {p:s} " + verb + "?"], who,
                w.NUMBERS[n - 1], "number:" + goods.noun, s1, tells={"thing", "number", "owner"},
                wants="number", subject=goods),
            Ask("what colour", ["What colour were {t:s}?", "Which colour were {t:s}?"],
                {"t": goods}, colour, "word", s1, tells={"thing", "colour"}, wants="colour"),
            Ask("who", ["Who " + past + " {t:o}?"], {"t": goods}, p.name, "name", s1,
                tells={"thing", "owner"}, wants="owner", subject=p),
            self.yes_no(["Were {t:s} " + fake + "?"], {"t": goods}, fake == colour, s1,
                        tells={"thing", "colour"}, wants="colour"),
        ]
        if (p, "give") not in self.done and rng.random() < 0.5:
            self.done.add((p, "give"))
            q = self.other(p)
            k = rng.randrange(1, n)
            s2 = self.say(f"{p.word('s', True).capitalize()} gave {w.NUMBERS[k - 1]} of them "
                          f"to {q.name}.")
            asks += [
                Ask("how many", ["How many did {p:s} give to {q:o}?",
                                 "How many did {q:s} get from {p:o}?"],
                    {"p": p, "q": q, "t": goods}, w.NUMBERS[k - 1], "number:" + goods.noun, s2,
                    tells={"thing", "given", "taker"}, wants="given"),
                Ask("who", ["Who did {p:s} give some of {t:o} to?",
                            "Who got some of {t:o}?"], who, q.name, "name", s2,
                    tells={"thing", "taker"}, wants="taker", subject=q),
                Ask("how many", ["How many did {p:s} keep?", "How many did {p:s} have left?"], who,
                    w.NUMBERS[n - k - 1], "number:" + goods.noun, s2, wants="kept",
                    tells={"thing", "kept"}, after="", tag="kept"),
            ]
        self.events.append(asks)

    def see(self):
        rng = self.rng
        if "animals" in self.done:
            return
        self.done.add("animals")
        animals = Thing(rng.choice(self.place["animals"]), plural=True)
        n, colour, spot = rng.randrange(2, 13), self.colours.pop(), self.lair
        p = rng.choice(self.people)
        s = self.say(rng.choice([
            f"There were {w.NUMBERS[n - 1]} {colour} {animals.noun} {spot}.",
            f"{p.name} saw {w.NUMBERS[n - 1]} {colour} {animals.noun} {spot}.",
        ]))
        fake = rng.choice([colour, rng.choice(self.colours)])
        self.events.append([
            Ask("how many", ["How many " + animals.noun + " were there?"], {"t": animals},
                w.NUMBERS[n - 1], "number:" + animals.noun, s,
                tells={"thing", "number"}, wants="number", subject=animals),
            Ask("what colour", ["What colour were {t:s}?"], {"t": animals}, colour, "word", s,
                tells={"thing", "colour"}, wants="colour"),
            Ask("where", ["Where were {t:s}?"], {"t": animals}, spot, "place", s,
                tells={"thing", "spot"}, wants="spot", subject=animals),
            Ask("what", ["Which animals were " + spot + "?", "What was " + spot + "?"],
                {}, animals.noun, "things", s, tells={"thing", "spot"}, wants="thing",
                tag="what", subject=animals),
            Ask("how many", ["How many?"], {"t": animals}, w.NUMBERS[n - 1],
                "number:" + animals.noun, s, tells={"thing", "number"}, wants="number",
                after="what"),
            self.yes_no(["Were {t:s} " + fake + "?"], {"t": animals}, fake == colour, s,
                        tells={"thing", "colour"}, wants="colour"),
        ])

    def explore(self):
        rng = self.rng
        p = self.doer("go")
        if p is None:
            return
        past, verb = rng.choice(w.GO)
        room, size, thing = self.rooms.pop(), rng.choice(w.SIZES), Thing(self.things.pop())
        s1 = self.say(f"{self.then()}{p.name} {past} to {room}.")
        what = a(f"{size} {thing.noun}")
        s2 = self.say(f"There {p.word('s', True)} saw {what}.")
        q = self.other(p)
        asked = rng.choice([p, q])
        self.events.append([
            Ask("where", ["Where did {p:s} " + verb + "?", "Where did {p:s} " + verb + " to?"],
                {"p": p}, f"to {room}", "place", s1, tells={"room"}, wants="room", subject=p,
                tag="go"),
            Ask("who", [f"Who {past} to {room}?", f"Who was at {room}?"], {}, p.name, "name", s1,
                tells={"room", "owner"}, wants="owner", tag="go", subject=p),
            Ask("what", ["What did {p:s} see there?"], {"p": p}, what, "noun", s2, tells={"thing"},
                wants="thing", after="go", subject=thing),
            Ask("what", ["What did {p:s} see at " + room + "?", "What was at " + room + "?"],
                {"p": p}, what, "noun", s2, tells={"thing", "room"}, wants="thing", subject=thing),
            Ask("where", ["Where was {t:s}?"], {"t": thing}, f"at {room}", "place", s2,
                tells={"thing", "room"}, wants="room", subject=thing),
            Ask("who", ["Who saw {t:o}?"], {"t": thing}, p.name, "name", s2,
                tells={"thing", "owner"}, wants="owner", subject=p),
            self.yes_no(["Did {p:s} " + verb + " to " + room + "?"], {"p": asked}, asked is p, s1,
                        tells={"room", "owner"}, wants="owner",
                        tag="go" if asked is p else "go not"),
            Ask("who", ["Who did?"], {}, p.name, "name", s1, tells={"owner"}, after="go not",
                tag="go", subject=p),
        ])

    def give(self):
        rng = self.rng
        p = self.doer("give")
        if p is None:
            return
        q = self.other(p)
        colour, thing = self.colours.pop(), Thing(self.things.pop())
        what = a(f"{colour} {thing.noun}")
        s = self.say(self.then() + rng.choice([
            f"{p.name} gave {q.name} {what}.",
            f"{q.name} got {what} from {p.name}.",
        ]))
        who = {"p": p, "q": q, "t": thing}
        asked = rng.choice([p, q])
        self.events.append([
            Ask("who", ["Who gave {t:o} to {q:o}?", "Who gave {t:o} away?"], {"q": q, "t": thing},
                p.name, "name", s, tells={"thing", "giver"}, wants="giver", subject=p),
            Ask("who", ["Who got {t:o}?", "Who did {p:s} give {t:o} to?"], {"p": p, "t": thing},
                q.name, "name", s, tells={"thing", "taker"}, wants="taker", subject=q),
            Ask("what", ["What did {p:s} give {q:o}?", "What did {q:s} get from {p:o}?"],
                {"p": p, "q": q}, what, "noun", s, tells={"thing", "colour", "giver", "taker"},
                wants="thing", subject=thing),
            Ask("what colour", ["What colour was {t:s}?"], {"t": thing}, colour, "word", s,
                tells={"thing", "colour"}, wants="colour"),
            self.yes_no(["Did {p:s} get {t:o}?"], {"p": asked, "t": thing}, asked is q, s,
                        tells={"thing", "taker"}, wants="taker"),
        ])

    def like(self):
        rng = self.rng
        if "like" in self.done:
            return
        self.done.add("like")
        p, q = rng.sample(self.people, 2)
        x, y = rng.sample(w.FOOD, 2)
        s = self.say(rng.choice([f"{p.name} liked {x}, but {q.name} liked {y}.",
                                 f"{p.name} asked for {x}, and {q.name} for {y}."]))
        verb, past = ("like", "liked") if "liked" in self.sentences[s] else ("ask for", "asked for")
        asked = rng.choice([x, y])
        self.events.append([
            Ask("what", ["What did {p:s} " + verb + "?"], {"p": p}, x, "word", s, tells={"x"},
                wants="x", tag="like p"),
            Ask("what", ["What did {q:s} " + verb + "?"], {"q": q}, y, "word", s, tells={"y"},
                wants="y", tag="like q"),
            Ask("what", ["And {q:s}?"], {"q": q}, y, "word", s, tells={"y"}, wants="y",
                after="like p"),
            Ask("what", ["And {p:s}?"], {"p": p}, x, "word", s, tells={"x"}, wants="x",
                after="like q"),
            Ask("who", [f"Who {past} {x}?"], {}, p.name, "name", s, tells={"x"}, wants="x",
                subject=p),
            Ask("who", [f"Who {past} {y}?"], {}, q.name, "name", s, tells={"y"}, wants="y",
                subject=q),
            self.yes_no(["Did {p:s} " + verb + " " + asked + "?"], {"p": p}, asked == x, s,
                        tells={"x"}, wants="x"),
        ])

    def feel(self):
        rng = self.rng
        if "feel" in self.done:
            return
        self.done.add("feel")
        p = rng.choice(self.people)
        feeling, deed = rng.choice(w.FEELINGS)
        he = p.word("s", True)
        s = self.say(f"{p.name} was {feeling}, so {he} {deed}.")
        q = self.other(p)
        asked = rng.choice([p, q])
        self.events.append([
            Ask("what", ["How did {p:s} feel?"], {"p": p}, feeling, "word", s,
                tells={"feeling", "owner"}, wants="feeling", tag="feel"),
            Ask("who", [f"Who was {feeling}?", f"Who {deed}?"], {}, p.name, "name", s,
                tells={"feeling", "owner"}, wants="owner", tag="feel", subject=p),
            Ask("what", ["What did {p:s} do?", "So what did {p:s} do?"], {"p": p}, deed, "phrase",
                s, tells={"deed"}, wants="deed", after="feel"),
            self.yes_no(["Was {p:s} " + feeling + "?"], {"p": asked}, asked is p, s,
                        tells={"feeling", "owner"}, wants="feeling",
                        tag="feel" if asked is p else ""),
        ])
