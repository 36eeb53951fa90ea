"""The lexicon of the validation rows, disjoint from that of training; `quickstart_words` explains its blocks."""

from __future__ import annotations

from data_prep.quickstart_words import Lexicon

VALIDATION = Lexicon(
    items="toaster | blender | rucksack | headset | keyboard | blanket | scooter | monitor",
    complaints={
        "delivery": """
            the {item} lingers in transit
            our consignment vanished at sea
            postal staff misrouted the {item}
            the {item} was never dispatched
            the haulier dumped the {item} elsewhere
            freight with the {item} remains overdue
            the mailman bypassed my flat
            we await our cargo
            the {item} resurfaced in a distant village
            the {item} rests at a sorting centre
            the logistics firm mislaid the {item}
            my mailbox is void of the {item}
        """,
        "billing": """
            you debited the {item} repeatedly
            the {item} exceeds the quote by forty dollars
            my reimbursement for the {item} is outstanding
            the coupon was ignored at checkout
            a surcharge for the {item} surprised us
            the instalment for the {item} was calculated incorrectly
            you overcharged us for the {item}
            our statement contains unexplained expenses
            the promotional rebate on the {item} was omitted
            VAT on the {item} was computed incorrectly
            PayPal transferred cash again
            the amount deducted for the {item} is excessive
        """,
        "fault": """
            the {item} malfunctions constantly
            the {item} is defective on the inside
            the {item} emits sparks near its plug
            the {item} collapsed beneath me
            the {item} flickers throughout the night
            the lid on the {item} snapped
            the {item} overheats within seconds
            the {item} is torn along a seam
            the {item} buzzes strangely
            rust spreads across the {item}
            the {item} refuses to start
            the {item} wobbles and rattles
        """,
        "account": """
            my credentials are rejected
            I am denied access to the portal
            fingerprint authentication fails
            a hacker hijacked my membership
            the registration form crashes
            my PIN is unrecognized
            my personal details require updating
            my username is unavailable
            my avatar disappeared
            I am unable to authenticate and view the {item}
            the captcha denies me access to the {item}
            my session expires while I browse the {item}
        """,
        "cancellation": """
            I revoke my reservation
            I withdraw from the agreement
            I am unwilling to acquire the {item}
            the {item} has become unnecessary
            the {item} was requested accidentally
            I annul the {item} request
            I intend to terminate the subscription
            I prefer to skip the {item}
            I regret choosing the {item}
            I wish to remove the {item} from our basket
            we abandoned the idea of a {item}
            the {item} is redundant
        """,
    },
    asides={
        "delivery": "postage was speedy | the mailman smiled",
        "billing": "the amount owed is accurate | the statement is flawless",
        "fault": "the {item} performs brilliantly | the {item} is sturdy",
        "account": "registration succeeded | my membership is active",
        "cancellation": "the subscription suits us | I shall retain the {item}",
    },
    message_frames="""
        dear team, {main}.
        honestly, {main}.
        as of yesterday, {main}.
        {main}, thanks in advance.
        {main}, could somebody assist?
        apparently {main}.
    """,
    contrast_frames="""
        {main}; however, {aside}.
        {main}, whereas {aside}.
        although {aside}, {main}.
        {aside}, yet {main}.
    """,
    agents="""
        doctor | physician
        lawyer | attorney
        thief | burglar
        king | monarch
        sailor | seaman
        baby | infant
        professor | lecturer
        athlete | sportsman
        tourist | visitor
        grandmother | granny
    """,
    traits="""
        brave | courageous
        shy | timid
        odd | weird
        famous | renowned
        lazy | idle
        lonely | solitary
    """,
    scenes=(
        (
            """
                shirt | blouse / hat | cap
                carpet | rug / curtain | drape
            """,
            """
                sewing | stitching / ironing | pressing
                selecting | picking / ruining | spoiling
            """,
        ),
        (
            """
                flower | blossom / bush | shrub
                lawn | turf / forest | woodland
            """,
            """
                trimming | pruning / admiring | marvelling at
                spraying | sprinkling / ruining | spoiling
            """,
        ),
        (
            """
                stone | rock / jewel | gem / sword | blade
                coin | penny
            """,
            """
                polishing | shining / tossing | hurling
                examining | inspecting / grabbing | seizing
            """,
        ),
        (
            """
                cottage | hut / castle | fortress
                tavern | pub / church | chapel
            """,
            """
                renovating | refurbishing / entering | stepping into
                renting | leasing / guarding | defending
            """,
        ),
    ),
    scene_frames="""
        today the {trait} {agent} was {activity} the {object}.
        they noticed a {trait} {agent} {activity} the {object}.
        once, a {trait} {agent} was {activity} a {object}.
        the {trait} {agent} kept {activity} a {object}.
    """,
    facts={
        "crafts": """
            stitch | a hem | needle and thread
            knit | scarves | yarn
            paint | a portrait | canvas and an easel
            carve | a statue | a chisel and marble
            mould | vases | clay and a potter's wheel
            fasten | trousers | a belt
        """,
        "outdoors": """
            light | a campfire | matches
            climb | mountains | a rope
            traverse | a desert | a camel
            admire | distant stars | a telescope
            spot | wild eagles | binoculars
            repel | mosquitoes | insect spray
            row | a canoe | paddles
        """,
        "science": """
            enlarge | bacteria | a microscope
            attract | iron | a magnet
            measure | earthquakes | a seismograph
            explore | Mars | a rocket
            generate | solar electricity | photovoltaic panels
            predict | storms | satellite data
        """,
        "arts": """
            accompany | an orchestra | a violin
            record | vocals | a microphone
            photograph | a wedding | a camera
            perform | ballet | a tutu and slippers
            enjoy | movies | a cinema
            perform | jazz | a saxophone
        """,
        "law and money": """
            defend | a suspect in court | an attorney
            sentence | criminals | a judge
            borrow | cash | a loan
            guard | jewels | a vault
            govern | a nation | a president
            report | breaking news | a journalist
        """,
        "body": """
            replace | a failing heart | a surgeon
            deliver | a baby | a midwife
            relieve | stress | yoga and meditation
            strengthen | bones | calcium
            calm | an itchy rash | ointment
            correct | poor eyesight | contact lenses
        """,
        "work": """
            design | a skyscraper | an architect
            program | software | a laptop
            rescue | drowning swimmers | a lifeguard
            extract | coal | a miner
            excavate | fossils | an archaeologist
            translate | Japanese | a bilingual interpreter
        """,
    },
    question_frames="""
        could anybody suggest how to {job}?
        which thing is required to {job}?
        is there anything to {job}?
        my uncle hopes to {job}, advice?
    """,
    answer_frames="""
        simply obtain {answer} | concerning {object}, simply obtain {answer}
        experts recommend {answer} | experts recommend {answer} regarding {object}
        consider {answer} | given {object}, consider {answer}
        {answer} might be ideal | {answer} might be ideal considering {object}
    """,
)
