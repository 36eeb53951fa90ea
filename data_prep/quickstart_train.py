"""The lexicon of the training rows; `quickstart_words` explains its blocks."""

from __future__ import annotations

from data_prep.quickstart_words import Lexicon

TRAIN = Lexicon(
    items="kettle | lamp | jacket | sofa | phone | radio | watch | tent | drill | printer | bag | chair",
    complaints={
        "delivery": """
            the {item} never arrived
            my parcel is a week late
            the courier went to the wrong address
            the driver left the {item} in the rain
            tracking for the {item} shows nothing
            nobody brought the {item} to my door
            the package with the {item} got lost on the way
            the van never came to my street
            the {item} was handed to a neighbour
            I waited all day and no parcel came
            the {item} is stuck at the depot
            the delivery slot for the {item} was missed
            my {item} went to my old house
            the package is still sitting at customs
            your courier did not ring the bell
            the {item} has not been shipped
            I still wait for the {item}
            you sent the {item} to a wrong town
            the {item} had to be here by now
            nobody knows where the {item} is
        """,
        "billing": """
            I was charged twice for the {item}
            the invoice for the {item} is wrong
            my credit card was billed too much
            the discount was not taken off the price
            the refund for the {item} is missing
            you took the money for the {item} two times
            the bill lists a {item} I did not buy
            my bank shows a payment of double the price
            the total on the receipt is too high
            the voucher did not lower the cost of the {item}
            I paid for one {item} and was charged for three
            the tax on the {item} is not right
            an extra fee appeared on my bill
            there is no receipt for the {item}
            the payment for the {item} was taken too early
            the sale price of the {item} was not used
            you still have my money for the {item}
            the {item} was meant to be cheaper
            I see a strange payment on my card
            the {item} was listed at half the price
        """,
        "fault": """
            the {item} stopped working
            the {item} is broken
            the {item} makes a loud noise
            there is a crack in the {item}
            the handle of the {item} fell off
            the {item} does not turn on
            the {item} has a hole in it
            smoke came out of the {item}
            a part of the {item} is bent
            the {item} leaks all the time
            the button on the {item} is stuck
            the {item} shuts down after a minute
            the {item} came apart in my hands
            the switch of the {item} is dead
            the {item} gets far too hot
            the {item} is full of scratches
            the {item} smells of smoke and shakes
            one leg of the {item} is loose
            the {item} burnt my hand
            the {item} died on the first day
        """,
        "account": """
            I forgot my password
            I cannot log in to order the {item}
            my user name is not accepted
            the website does not know my email
            the sign-up page shows an error
            I want to change my phone number
            my profile shows an old address
            the code to reset my password is not valid
            a stranger is using my account
            my account has been blocked
            I cannot open my user page
            the link to confirm my email is broken
            the app logs me out when I look at the {item}
            I need to change the name on my profile
            my account no longer lists the {item}
            the site says my password is too short
            my login does not work
            the page asks for a code I never got
            I have been locked out of my account
            my email on the page is out of date
        """,
        "cancellation": """
            I no longer want the {item}
            my order has to be cancelled
            I changed my mind about the {item}
            I would like to call off the order for the {item}
            the {item} need not be sent any more
            I do not need the {item} now
            I ordered the {item} by mistake
            you can stop the order before it leaves
            I found a better {item} in another shop
            I want to drop the {item} from my order
            I want to end my contract
            my plans changed and the {item} is of no use
            I have decided not to buy the {item}
            you can take the {item} off my order
            I want to give up my plan
            the {item} will not be used, we have one
            nobody here wants the {item} any longer
            the {item} was ordered by my child
            the {item} order is a mistake
            we are not going to take the {item}
            I take back my order
            I say no to the {item}
            we can do without the {item}
            there is no need for the {item} after all
            the order for the {item} is no longer wanted
            the {item} is not needed
            the {item} was a bad choice
            the {item} can stay on the shelf
        """,
    },
    asides={
        "delivery": "the {item} came on time | the driver was kind | the parcel came early",
        "billing": "the price was fair | the bill is fine | I paid very little",
        "fault": "the {item} works well | the {item} is solid | the {item} looks great",
        "account": "my account is open | it was easy to log in | my profile is fine",
        "cancellation": "I will keep the {item} | I still want the order | I like my plan",
    },
    message_frames="""
        {main}.
        hello, {main}.
        good morning, {main}.
        I am writing because {main}.
        sorry, but {main}.
        {main}, please help.
        {main}, what can I do?
        {main} and I am not happy.
        can you check why {main}?
    """,
    contrast_frames="""
        {aside}, but {main}.
        {aside}, only {main}.
        {main}, though {aside}.
        {main}, but {aside}.
        {main} and so what if {aside}?
        I know that {aside}, but {main}.
    """,
    agents="""
        boy | lad
        woman | lady
        man | guy
        child | kid
        teacher | schoolmaster
        cook | chef
        soldier | trooper
        policeman | cop
        friend | buddy
        worker | labourer
        farmer | peasant
        robber | bandit
        priest | clergyman
        writer | author
        boss | manager
    """,
    traits="""
        small | little
        happy | cheerful
        tired | sleepy
        angry | furious
        rich | wealthy
        clever | smart
        old | aged
        quiet | silent
        nice | friendly
    """,
    scenes=(
        (
            """
                bicycle | bike / car | automobile / boat | ship
                plane | aircraft / lorry | truck / engine | motor
            """,
            """
                repairing | fixing / washing | cleaning / buying | purchasing
                stealing | robbing / hiding | concealing
            """,
        ),
        (
            """
                soup | broth / meat | beef / cake | pastry
                sweet | candy / bread | loaf / drink | beverage
            """,
            """
                cooking | preparing / eating | devouring / tasting | sampling
                buying | purchasing / serving | handing out
            """,
        ),
        (
            """
                letter | note / book | novel / story | tale
                poem | verse / picture | image / map | chart
            """,
            """
                reading | studying / creating | making / tearing up | shredding
                explaining | describing / hiding | concealing
            """,
        ),
        (
            """
                dog | puppy / cat | kitten / rabbit | bunny
                horse | pony / pig | hog / donkey | mule
            """,
            """
                feeding | nourishing / stroking | petting / chasing | pursuing
                watching | observing / washing | cleaning
            """,
        ),
        (
            """
                house | home / road | street / wall | fence
                shop | store / bridge | crossing / yard | courtyard
            """,
            """
                building | constructing / tearing down | demolishing
                watching | observing / leaving | quitting
            """,
        ),
        (
            """
                table | desk / sofa | couch / chair | seat
                bottle | flask / cup | mug / lamp | lantern
            """,
            """
                moving | shifting / smashing | shattering / lifting | raising
                burning | setting fire to / hiding | concealing
            """,
        ),
    ),
    scene_frames="""
        the {trait} {agent} is {activity} the {object}.
        a {trait} {agent} is {activity} the {object}.
        the {trait} {agent} has been {activity} a {object}.
        there is a {trait} {agent} {activity} a {object}.
        we saw the {trait} {agent} {activity} the {object}.
        here the {trait} {agent} is {activity} a {object}.
    """,
    facts={
        "kitchen": """
            slice | bread | a sharp knife
            boil | potatoes | a pot of hot water
            fry | bacon | a pan with oil
            bake | a cake | an oven
            weigh | flour | a scale
            open | canned beans | a tin opener
            keep | milk | a fridge
            squeeze | oranges | a juicer
            eat | soup | a spoon
            brew | coffee | a filter and ground beans
            grind | pepper | a small mill
            serve | tea | a cup
        """,
        "cleaning": """
            wash | clothes | detergent
            dry | wet hair | a towel
            sweep | the floor | a broom
            suck up | dust | a vacuum cleaner
            brush | teeth | minty paste
            scrub | plates | a sponge
            throw away | rubbish | a bin
            shave off | a beard | a razor
            clean | dirty hands | soap
        """,
        "workshop": """
            drive in | a nail | a hammer
            tighten | a bolt | a wrench
            cut | wood | a saw
            smooth | a rough board | sandpaper
            join | broken pieces | glue
            reach | a high shelf | a ladder
            silence | a squeaking door | a drop of oil
            see in | the dark | a torch
            power | a toy car | batteries
            lock | a gate | a key
        """,
        "health": """
            ease | a headache | an aspirin
            cover | a small cut | a plaster
            check for | fever | a thermometer
            treat | a cough | honey syrup
            protect | skin from the sun | lotion
            read | small letters | glasses
            support | a broken leg | a crutch
            get | enough sleep | a pillow
            fight | an infection | an antibiotic
            avoid | the flu | a vaccine
        """,
        "travel": """
            cross | a river | a bridge
            enter | another country | a passport
            stay in | a foreign city | a hotel room
            pack | clothes for a trip | a suitcase
            find | the way north | a compass
            ride | the train | a ticket
            keep off | the rain | an umbrella
            go down | a snowy slope | skis
            fill up | an empty car | petrol
            land | a plane | a runway
        """,
        "office": """
            draw | a straight line | a ruler
            fix | a typing error on paper | an eraser
            send | a letter | a stamp
            hold | loose sheets | a paper clip
            work out | a long sum | a calculator
            write on | a blackboard | chalk
            look up | a hard word | a dictionary
            know | the date | a calendar
            wake up before | dawn | an alarm clock
            talk to | a far-away friend | a telephone
        """,
        "sport and play": """
            play | chess | a board and sixteen pieces
            hit | a tennis ball | a racket
            score | a goal | a good kick
            catch | fish | a rod and a hook
            swim in | deep water | goggles
            lift | weights | strong arms
            time | a race | a stopwatch
            make | a snowman | snow and a carrot
            fly | a kite | wind
            play | folk music | a guitar
        """,
        "garden": """
            dig | a hole | a spade
            cut | grass | a mower
            gather | dead leaves | a rake
            grow | tomatoes | rich soil
            carry | heavy bricks | a wheelbarrow
            scare away | birds | a man made of straw
            collect | honey | a hive of bees
            get | fresh eggs | a hen
            make | wool | a sheep
            lock in | a parrot | a cage
        """,
        "people": """
            pull out | a bad tooth | a dentist
            cut | long hair | a barber
            put out | a house fire | a fireman
            arrest | a robber | the police
            fix | a car engine | a mechanic
            care for | a sick dog | a vet
            teach | maths to children | a teacher
            cook | food for guests | a chef
            mend | leaking pipes | a plumber
            fly | a jet | a pilot
            milk | cows | a farmer
            sell | meat | a butcher
        """,
    },
    question_frames="""
        what do I need to {job}?
        what is best to {job}?
        what would you use to {job}?
        I want to {job}, what helps?
        how can I {job}?
        we have to {job}, any tips?
    """,
    answer_frames="""
        {answer} will do | for {object}, {answer} will do
        {answer} is the usual choice | with {object}, {answer} is the usual choice
        you need {answer} | you need {answer} for {object}
        most people go for {answer} | most people go for {answer} with {object}
        I would get {answer} | if it is about {object}, I would get {answer}
    """,
)
