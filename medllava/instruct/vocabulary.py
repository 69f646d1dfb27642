"""What the template teacher can recognise in a caption, and how it asks about it.

Data only: each `Topic` lists the values a caption may name, with the words that name them, and the
wordings of open and of yes/no questions. `facts` reads captions with it, `template` asks.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value of a topic."""

    answer: str
    """One to three words, as the assistant says it."""
    phrase: str
    """As it stands in a yes/no question, with its article."""
    pattern: str
    """Regular expression of the words that name it; case counts where it does not say `(?i:`."""
    within: tuple[str, ...] = ()
    """Answers that hold this one, such as the leg for the tibia: where both are named, this
    more exact one is meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One kind of fact: its values and the ways to ask for them."""

    name: str
    """Category of the question in reports."""
    values: tuple[Value, ...] = ()
    """Empty for topics whose value is a number read from the text."""
    open_wordings: tuple[str, ...]
    closed_wordings: tuple[str, ...]
    """With `{phrase}`; number topics use `{count}`. All may use `{noun}`."""
    statement: str
    """What the picture shows, as a reply to a yes/no question goes on; `{phrase}` of the true
    value, or `{answer}` of number topics."""


def _value(answer: str, phrase: str, words: str, *, exact: str = "", within: str = "") -> Value:
    """Make a value from words that match in any case and words that match exactly."""
    parts = [rf"(?i:{words})"] if words else []
    parts += [exact] if exact else []
    return Value(
        answer=answer,
        phrase=phrase,
        pattern=rf"\b(?:{'|'.join(parts)})(?!\w)",
        within=tuple(within.split()) if within else (),
    )


MODALITY = Topic(
    name="modality",
    values=(
        _value(
            "MRI", "an MRI", r"magnetic resonance(?: \w+)?|mr imag(?:e|es|ing)", exact="f?MRIs?"
        ),
        _value("CT", "a CT scan", r"computed tomograph\w*", exact=r"(?:HR|CB)?CT"),
        _value(
            "X-ray",
            "an X-ray",
            r"x-?rays?|(?:chest |plain )?radiograph(?:s|y|ic)?|roentgenogra\w*|mammogra\w*",
        ),
        _value("ultrasound", "an ultrasound image", r"ultraso\w*|sonogra\w*|echocardiogra\w*"),
        _value("PET", "a PET scan", r"positron emission tomograph\w*", exact="PET"),
        _value("bone scan", "a bone scan", r"bone scans?|(?:bone )?scintigra\w*"),
        _value("fundus photograph", "a fundus photograph", r"fundus(?: photogra\w*)?|fundoscop\w*"),
        _value(
            "optical coherence tomography",
            "an optical coherence tomography scan",
            r"optical coherence tomogra\w*",
            exact="OCT",
        ),
        _value(
            "fluorescence microscopy",
            "a fluorescence microscopy image",
            r"(?:immuno)?fluorescen(?:ce|t)(?: (?:light )?micro(?:scop|gra)\w*)?|confocal \w+",
            exact="DAPI",
        ),
        _value(
            "electron microscopy",
            "an electron microscopy image",
            r"(?:transmission |scanning )?electron micro(?:scop|gra)\w*",
        ),
        _value(
            "histopathology",
            "a histopathology image",
            r"histopatholog\w*|histolog\w*|immunohistochem\w*|ha?ematoxylin|photomicrogra\w*"
            r"|light micro(?:scop|gra)\w*|biopsy specimen",
            exact="H ?& ?E|HE|IHC",
        ),
        _value("endoscopy", "an endoscopic image", r"endoscop\w*|colonoscop\w*|gastroscop\w*"),
        _value(
            "gross pathology", "a gross pathology photograph", r"gross (?:patholog\w*|specimen)"
        ),
    ),
    open_wordings=(
        "What kind of image is this?",
        "Which imaging modality is shown?",
        "How was this image made?",
        "What is the modality of this image?",
        "Which imaging technique was used?",
    ),
    closed_wordings=(
        "Is this {phrase}?",
        "Is the image {phrase}?",
        "Does the picture show {phrase}?",
    ),
    statement="it is {phrase}",
)

BODY_PART = Topic(
    name="body_part",
    values=(
        _value("brain", "the brain", r"brains?|cerebral|intracranial", within="head"),
        _value("head", "the head", r"heads?|skull|cranial|cranium"),
        _value("retina", "the retina", r"retinas?|retinal", within="eye"),
        _value("eye", "the eye", r"eyes?|ocular"),
        _value("spine", "the spine", r"spines?|spinal|vertebrae?|vertebral|lumbar"),
        _value("neck", "the neck", r"necks?"),
        _value("thyroid", "the thyroid", r"thyroid", within="neck"),
        _value("lung", "the lungs", r"lungs?|pulmonary", within="chest"),
        _value("heart", "the heart", r"hearts?|cardiac|myocardi\w*|ventric\w*", within="chest"),
        _value("chest", "the chest", r"chests?|thorax|thoracic"),
        _value("breast", "the breast", r"breasts?|mammary", within="chest"),
        _value("shoulder", "the shoulder", r"shoulders?|glenohumeral"),
        _value("liver", "the liver", r"livers?|hepatic", within="abdomen"),
        _value("kidney", "the kidney", r"kidneys?|renal", within="abdomen"),
        _value("pancreas", "the pancreas", r"pancreas|pancreatic", within="abdomen"),
        _value("spleen", "the spleen", r"spleens?|splenic", within="abdomen"),
        _value("stomach", "the stomach", r"stomach|gastric", within="abdomen"),
        _value("colon", "the colon", r"colon|colonic|colorectal", within="abdomen"),
        _value("bladder", "the bladder", r"(?:urinary )?bladder", within="pelvis"),
        _value("prostate", "the prostate", r"prostate|prostatic", within="pelvis"),
        _value("uterus", "the uterus", r"uterus|uterine|endometri\w*", within="pelvis"),
        _value("ovary", "the ovary", r"ovary|ovaries|ovarian", within="pelvis"),
        _value("abdomen", "the abdomen", r"abdomen|abdominal"),
        _value("pelvis", "the pelvis", r"pelvis|pelvic"),
        _value("hip", "the hip", r"hips?"),
        _value("femur", "the femur", r"femurs?|femoral", within="leg"),
        _value("knee", "the knee", r"knees?", within="leg"),
        _value("tibia", "the tibia", r"tibias?|tibiae|tibial", within="leg"),
        _value("ankle", "the ankle", r"ankles?", within="leg"),
        _value("leg", "the leg", r"(?:lower )?legs?"),
        _value("foot", "the foot", r"foot|feet"),
        _value("elbow", "the elbow", r"elbows?", within="arm"),
        _value("wrist", "the wrist", r"wrists?", within="hand arm"),
        _value("hand", "the hand", r"hands?", within="arm"),
        _value("arm", "the arm", r"arms?|forearms?|humerus"),
        _value("skin", "the skin", r"skin|cutaneous|epiderm\w*"),
        _value("lymph node", "a lymph node", r"lymph nodes?"),
        _value("bone marrow", "bone marrow", r"bone marrow"),
        _value("skeleton", "the skeleton", r"skeletons?|skeletal", within="body"),
        _value("teeth", "the teeth", r"tooth|teeth|dental|molars?"),
        Value(answer="body", phrase="the whole body", pattern=r"\b(?i:whole[- ]body)(?!\w)"),
    ),
    open_wordings=(
        "Which part of the body is shown?",
        "What body part is this?",
        "Which organ or region does the image show?",
        "What anatomy is shown here?",
    ),
    closed_wordings=(
        "Does the image show {phrase}?",
        "Is {phrase} shown in this image?",
        "Is this an image of {phrase}?",
    ),
    statement="it shows {phrase}",
)

PLANE = Topic(
    name="plane",
    values=(
        _value("axial", "an axial slice", r"axial(?:ly)?|transverse plane|transaxial"),
        _value("sagittal", "a sagittal slice", r"(?:mid)?sagittal(?:ly)?"),
        _value("coronal", "a coronal slice", r"coronal(?:ly)?"),
    ),
    open_wordings=(
        "In which plane is this slice?",
        "Which plane is shown?",
        "What is the orientation of the slice?",
        "Along which plane was the image taken?",
    ),
    closed_wordings=(
        "Is this {phrase}?",
        "Does the image show {phrase}?",
        "Is the image {phrase}?",
    ),
    statement="it is {phrase}",
)

VIEW = Topic(
    name="view",
    values=(
        _value(
            "frontal",
            "a frontal view",
            # The frontal lobe, bone or sinus is no view.
            r"frontal(?! (?:lobes?|bones?|sinus\w*|horns?|gyr\w+|cort\w+|regions?|areas?|white|"
            r"poles?|scalp))(?=[^.;]{0,40}\b(?:view|projection|radiograph|x-?ray|film|chest|image|plane))"
            r"|(?:view|radiograph|x-?ray|film|chest|projection)\b[^.;]{0,30}\bfrontal"
            r"(?! (?:lobes?|bones?|sinus\w*|horns?|gyr\w+|cort\w+|regions?|areas?|white|poles?))"
            r"|posteroanterior|anteroposterior",
            exact="PA view|AP view|PA projection|AP projection",
        ),
        _value("lateral", "a lateral view", r"lateral (?:view|projection|radiograph|chest|x-ray)"),
        _value("oblique", "an oblique view", r"oblique (?:view|projection|radiograph)"),
    ),
    open_wordings=(
        "From which side was the image taken?",
        "Which view is shown?",
        "What is the projection of this image?",
    ),
    closed_wordings=("Is this {phrase}?", "Does the image show {phrase}?"),
    statement="it is {phrase}",
)

STAIN = Topic(
    name="stain",
    values=(
        _value(
            "hematoxylin and eosin",
            "hematoxylin and eosin",
            r"ha?ematoxylin(?:[- ](?:and|&)?[- ]?eosin)?",
            exact="H ?& ?E|HE",
        ),
        _value(
            "immunohistochemistry",
            "immunohistochemistry",
            r"immunohistochem\w*|immunostain\w*|immunoperoxidase",
            exact="IHC|DAB",
        ),
        _value("PAS", "PAS", r"periodic acid[- ]schiff", exact="PAS"),
        _value("Giemsa", "Giemsa", r"(?:may-gr\w+nwald[- ])?giemsa"),
        _value("trichrome", "trichrome", r"(?:masson'?s? )?trichrome"),
        _value("Gram", "Gram stain", r"gram[- ]stain\w*"),
        _value("DAPI", "DAPI", "", exact="DAPI"),
    ),
    open_wordings=(
        "Which stain was used?",
        "How was the tissue stained?",
        "What is the staining method?",
        "Name the stain of this section.",
    ),
    closed_wordings=(
        "Is the stain {phrase}?",
        "Was the section stained by {phrase}?",
        "Does the image show staining by {phrase}?",
    ),
    statement="the stain is {phrase}",
)

SEQUENCE = Topic(
    name="sequence",
    values=(
        _value("T1-weighted", "T1-weighted", r"t1[- ]?(?:weighted|wi?)?"),
        _value("T2-weighted", "T2-weighted", r"t2[- ]?(?:weighted|wi?)?"),
        _value(
            "FLAIR", "a FLAIR sequence", r"fluid[- ]attenuated inversion recovery", exact="FLAIR"
        ),
        _value("diffusion-weighted", "diffusion-weighted", r"diffusion[- ]weighted", exact="DWI"),
        _value("proton density", "proton density-weighted", r"proton[- ]density"),
    ),
    open_wordings=(
        "Which MRI sequence is this?",
        "How is this MRI weighted?",
        "What weighting does the MRI have?",
    ),
    closed_wordings=("Is this MRI {phrase}?", "Is the MRI sequence {phrase}?"),
    statement="it is {phrase}",
)

LATERALITY = Topic(
    name="laterality",
    values=(
        _value("left", "the left side", r"left(?! (?:panels?|columns?|images?|rows?|to))"),
        _value("right", "the right side", r"right(?! (?:panels?|columns?|images?|rows?|to))"),
    ),
    open_wordings=("Which side is affected or shown?", "Left or right: which side is it?"),
    closed_wordings=("Is it {phrase}?", "Does the image show {phrase}?"),
    statement="it is {phrase}",
)

AMOUNT = Topic(
    name="amount",
    values=(
        _value("many", "many {noun}", r"many|numerous|crowded|abundant"),
        _value("few", "few {noun}", r"few|sparse|scattered|scarce"),
    ),
    open_wordings=("Are there many or few {noun}?", "How dense are the {noun}: many or few?"),
    closed_wordings=("Are there {phrase}?", "Does the image show {phrase}?"),
    statement="there are {phrase}",
)

COUNT = Topic(
    name="count",
    open_wordings=(
        "How many {noun} are there?",
        "What is the number of {noun}?",
        "How many {noun} does the image show?",
        "Count the {noun}.",
    ),
    closed_wordings=(
        "Are there more than {count} {noun}?",
        "Does the image show more than {count} {noun}?",
    ),
    statement="there are {answer} {noun}",
)

PANELS = Topic(
    name="panels",
    open_wordings=(
        "How many panels does the figure have?",
        "Of how many panels is the figure made?",
    ),
    closed_wordings=(
        "Does the figure have more than {count} panels?",
        "Are there more than {count} panels?",
    ),
    statement="there are {answer} panels",
)

TOPICS = (
    MODALITY,
    BODY_PART,
    PLANE,
    VIEW,
    STAIN,
    SEQUENCE,
    LATERALITY,
    AMOUNT,
    COUNT,
    PANELS,
)
COUNTED_NOUNS = "nuclei|cells|nodules|lesions|follicles|glands|teeth|ribs|vessels"
"""What a number in a caption may count."""
