"""Tasks as data: a small copy of each shipped one in its real layout, and files of one's own."""

import base64
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medllava.data.benchmarks import slake_boxes
from medllava.data.benchmarks.questions import image_paths, load_questions
from medllava.data.benchmarks.task import load_alternatives
from medllava.data.conversation import question_text
from medllava.errors import DataError
from medllava.score.alternatives import stated_alternative
from medllava.score.closed import closed_hit
from medllava.store import read_json

FIXTURES = Path(__file__).parents[2] / "fixtures" / "eval"


def picture(shade=100, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (20 * shade % 256, 10, 10)).save(buffer, format="JPEG")
    return buffer.getvalue()


def write(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif isinstance(content, str):
        file.write_text(content, encoding="utf-8")
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        file.write_text(json.dumps(content))
    return file


def parquet(folder, name, rows):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def vqamed2019(folder):
    write(folder, "VQAMed2019_Test_Questions_w_Ref_Answers.txt",
          "synpic1|modality|what type of image is this?|ct scan\n"
          "synpic2|plane|is this axial?|yes\n")  # fmt: skip
    for number in (1, 2):
        write(folder, f"images/synpic{number}.jpg", picture(number))


def vqamed_later(folder):
    write(folder, "VQA-Med-Test-QA-Pairs.txt", "synpic1|what is abnormal?|acute appendicitis\n")
    write(folder, "images/synpic1.jpg", picture())


def probmed(folder):
    rows = [
        {"id": 7, "image": "MedICaT/a.jpg", "image_type": "x-ray_chest", "qa_type": qa_type,
         "question": f"Is this {qa_type}?", "answer": answer}
        for qa_type, answer in (("modality_gt", "yes"), ("modality_hallu", "no"),
                                ("entity_gt_0", "yes"), ("entity_hallu_0", "no"))
    ]  # fmt: skip
    write(folder, "probmed.json", rows)
    write(folder, "MedICaT/a.jpg", picture())


def gmai(folder):
    text = base64.b64encode(picture()).decode()
    write(folder, "GMAI-MMBench_VAL.tsv",
          "index\timage\tquestion\tA\tB\tC\tanswer\tcategory\tl2-category\n"
          f"0\t{text}\tWhich?\tglaucoma\tnormal\t\tB\tDisease Diagnosis\tx\n")  # fmt: skip


def medxpertqa(folder):
    row = {"id": "MM-26", "question": "Which?\nAnswer Choices: (A) x (B) y", "label": "B",
           "options": {"A": "x", "B": "y"}, "images": ["MM-26-a.jpeg", "MM-26-b.jpeg"],
           "medical_task": "Diagnosis", "body_system": "Skeletal"}  # fmt: skip
    write(folder, "MM/test.jsonl", [row])
    for name in row["images"]:
        write(folder, f"images/{name}", picture())


def mmmumed(folder):
    row = {"id": "validation_Basic_Medical_Science_1", "question": "In <image 1> and <image 2>?",
           "options": "['x', 'y']", "answer": "A", "subfield": "Anatomy",
           "image_1": {"bytes": picture(1), "path": "1.png"},
           "image_2": {"bytes": picture(2), "path": "2.png"}, "image_3": None}  # fmt: skip
    parquet(folder, "Basic_Medical_Science/validation-00000-of-00001.parquet", [row])


def medframeqa(folder):
    row = {"question_id": "q1", "question": "What do the frames show?", "system": "Cardiac",
           "options": ["x", "y", "z"], "correct_answer": "C", "modality": "Ultrasound",
           **{f"image_{i}": {"bytes": picture(i), "path": None} for i in (1, 2, 3)},
           "image_4": None}  # fmt: skip
    parquet(folder, "data/test-00000-of-00001.parquet", [row])


def rexvqa(folder):
    row = {"id": "r1", "question": "Which?", "options": ["A. x", "B. y"], "correct_answer": "B",
           "task_name": "presence", "ImagePath": ["deid/a.png", "deid/b.png"]}  # fmt: skip
    write(folder, "metadata/test_vqa_data.json", [row])
    for name in row["ImagePath"]:
        write(folder, f"images/{name}", picture())


def mimiccxrvqa(folder):
    shared = {"image_path": "p10/a.jpg", "content_type": "anatomy", "split": "test"}
    rows = [
        {"idx": 0, "question": "Which lungs?", "answer": ["left lung", "right lung"], **shared},
        {"idx": 1, "question": "Any devices?", "answer": [], **shared},
        {"idx": 2, "question": "Is there edema?", "answer": ["yes"], **shared},
    ]
    write(folder, "MIMIC-CXR-VQA/dataset/test.json", rows)
    write(folder, "images/p10/a.jpg", picture())


def medvlthinker(folder):
    row = {"question": "Which?", "options": '{"A": "x", "B": "y"}', "answer_label": "B",
           "answer": "y", "dataset_name": "PMC-VQA",
           "images": [{"bytes": picture(), "path": None}]}  # fmt: skip
    parquet(folder, "data/test-00000-of-00001.parquet", [row])


def contrabench(folder):
    row = {"sample_id": "s1", "question": "Which finding is present?", "gold_letter": "A",
           "options": ["A. Consolidation", "B. No consolidation"], "image_paths": ["a.jpg"],
           "metadata": {"task_name": "presence_probe", "finding": "consolidation"}}  # fmt: skip
    write(folder, "direct_presence_probe.json", {"records": [row]})
    write(folder, "images/a.jpg", picture())


def reports(folder):
    rows = {"train": [], "val": [], "test": [
        {"id": "1", "report": "clear lungs .", "image_path": ["1/0.png", "1/1.png"]},
    ]}  # fmt: skip
    write(folder, "annotation.json", rows)
    for name in ("1/0.png", "1/1.png"):
        write(folder, f"images/{name}", picture())


def slakeboxes(folder):
    for name in ("xmlab1", "xmlab2"):
        write(folder, f"imgs/{name}/source.jpg", picture(size=(200, 100)))
        kidneys = [{"Kidney": [0, 0, 5, 5]}, {"Kidney": [9, 9, 5, 5]}]
        write(folder, f"imgs/{name}/detection.json", [{"Liver": [20, 10, 100, 40]}, *kidneys])
    write(folder, "test.json", [{"img_name": "xmlab1/source.jpg"}])


COPIES = {
    "vqamed2019": (vqamed2019, 2, ["ct scan", "yes"]),
    "vqamed2020": (vqamed_later, 1, ["acute appendicitis"]),
    "vqamed2021": (vqamed_later, 1, ["acute appendicitis"]),
    "probmed": (probmed, 1, ["yes", "no", "yes", "no"]),
    "gmai": (gmai, 1, ["normal"]),
    "medxpertqa": (medxpertqa, 2, ["y"]),
    "mmmumed": (mmmumed, 2, ["x"]),
    "medframeqa": (medframeqa, 3, ["z"]),
    "rexvqa": (rexvqa, 2, ["y"]),
    "mimiccxrvqa": (mimiccxrvqa, 1, ["left lung, right lung", "none", "yes"]),
    "medvlthinker": (medvlthinker, 1, ["y"]),
    "contrabench": (contrabench, 1, ["Consolidation"]),
    "iuxray": (reports, 2, ["clear lungs ."]),
    "mimiccxr": (reports, 2, ["clear lungs ."]),
    "slakeboxes": (slakeboxes, 1, ["Liver"]),
}


@pytest.fixture
def copy(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(name):
        folder = tmp_path / name
        COPIES[name][0](folder)
        return load_questions(name, data=folder)

    return make


@pytest.mark.parametrize("name", COPIES)
def test_a_small_copy_is_read_with_its_answers_and_all_its_images(copy, name):
    _, num_images, answers = COPIES[name]
    found = copy(name)
    assert [question.answer for question in found.questions] == answers
    assert len(image_paths(found, found.questions)) == num_images
    assert found.name == name
    assert not any("left out" in note for note in found.notes)


def test_the_questions_of_slake_are_parsed_once_for_all_its_boxes(tmp_path, monkeypatch):
    slakeboxes(tmp_path)
    read = []
    monkeypatch.setattr(slake_boxes, "read_json", lambda f: read.append(f.name) or read_json(f))
    load_questions("slakeboxes", data=tmp_path)
    assert read.count("test.json") == 1
    assert read.count("detection.json") == 1


def test_pairs_of_probmed_are_groups_and_kinds_of_image_its_modality(copy):
    questions = copy("probmed").questions
    assert [q.group for q in questions] == ["7 modality"] * 2 + ["7 entity_0"] * 2
    assert {q.modality for q in questions} == {"x-ray_chest"}
    assert len({q.id for q in questions}) == 4


def test_sets_boxes_and_places_of_images_are_asked_for_in_words(copy):
    several, none, one = copy("mimiccxrvqa").questions
    assert several.answers == ("left lung", "right lung")
    assert question_text(several).endswith("Name all that apply, separated by commas.")
    assert (none.answers, one.answers) == ((), ())
    (liver,) = copy("slakeboxes").questions
    assert liver.box == (0.1, 0.1, 0.6, 0.5)
    assert "in thousandths" in question_text(liver)
    (mmmu,) = copy("mmmumed").questions
    assert mmmu.question == "In image 1 and image 2?"
    assert len(mmmu.images) == 2


def test_every_or_question_of_vqa_rad_offers_its_own_answer_and_no_other():
    known = load_alternatives("vqarad")
    rows = [json.loads(line) for line in (FIXTURES / "vqarad_or.jsonl").read_text().splitlines()]
    left_out = []
    for row in rows:
        offered = known.get(" ".join(row["question"].casefold().split()))
        if offered is None:
            left_out.append(row["answer"])
            continue
        assert stated_alternative(offered, row["answer"], row["answer"]) is not None, row
        others = [
            one for one in offered if stated_alternative(offered, row["answer"], one[0])
            != stated_alternative(offered, row["answer"], row["answer"])
        ]  # fmt: skip
        assert len(others) == len(offered) - 1, row
        for one in offered:
            for wording in one:
                assert stated_alternative(offered, wording, f"It is {wording}.") is not None, row
    assert sorted(left_out) == ["Bilateral frontal lobes", "Maybe", "Maybe", "Not sure"]


@pytest.mark.parametrize(
    ("asked", "reply", "right"),
    [
        ("Was this image taken with or without contrast?", "No contrast was given.", False),
        ("Was this image taken with or without contrast?", "with IV contrast", True),
        ("Is this image normal or abnormal?", "It is not normal.", True),
        ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "T2-weighted", False),
        ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "FLAIR", True),
        ("Is the trachea deviated to the right or left?", "left and right", None),
        ("Was oral or IV contrast used?", "oral and IV", True),
        ("Which is highlighted in this image, white or gray matter?", "the grey matter", True),
    ],
)
def test_replies_to_or_questions_of_vqa_rad(tmp_path, asked, reply, right):
    rows = [json.loads(line) for line in (FIXTURES / "vqarad_or.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["question"] == asked]
    row |= {"answer_type": "CLOSED", "phrase_type": "test_freeform", "qid": 1}
    write(tmp_path, "VQA_RAD Dataset Public.json", [row])
    (question,) = load_questions("vqarad", data=tmp_path).questions
    assert question.alternatives
    assert closed_hit(question, reply) is right


def test_a_task_file_of_ones_own(tmp_path):
    write(tmp_path, "rows/mine.json", [
        {"nr": 1, "frage": "Wo?", "info": {"antwort": "links"}, "bild": "a.png", "teil": "a"},
        {"nr": 2, "frage": "Wo?", "info": {"antwort": "rechts"}, "bild": "a.png", "teil": "b"},
    ])  # fmt: skip
    write(tmp_path, "rows/pictures/a.png", picture())
    task = write(
        tmp_path,
        "own.toml",
        'title = "Mine"\ndata = "rows/mine.json"\nimage_dir = "pictures"\n'
        'closed_prompt = "Ja oder nein."\nversion = 3\n'
        '[keys]\nid = "nr"\nquestion = "frage"\nanswer = "info.antwort"\nimage = "bild"\n'
        '[where]\nteil = ["b"]\n',
    )
    found = load_questions(str(task))
    assert (found.name, found.version, found.closed_prompt) == ("own", 3, "Ja oder nein.")
    assert [(q.id, q.answer) for q in found.questions] == [("2", "rechts")]
    assert len(image_paths(found, found.questions)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('data = "x.json"\nkyes = 1', "did you mean 'keys'"),
        ('title = "x"', "needs data"),
        ("title =", "not a task in TOML"),
        ('data = "x.json"\nwhere = "all"', "another form"),
    ],
)
def test_a_task_file_that_cannot_be_used_says_why(tmp_path, text, message):
    task = write(tmp_path, "own.toml", text)
    with pytest.raises(DataError, match=message):
        load_questions(str(task))


def test_a_task_without_a_pinned_copy_says_where_one_is():
    with pytest.raises(DataError, match=r"--data. PhysioNet"):
        load_questions("mimiccxrvqa")
