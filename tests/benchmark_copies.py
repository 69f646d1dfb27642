"""Small copies of the benchmarks in every format that circulates, with real images."""

import csv
import io
import json
import zipfile
from pathlib import Path

from PIL import Image


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 20, 200)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_images(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(10 * i))


def write_json(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False))


def rad_row(qid, image, question, answer, kind, phrase):
    return {
        "qid": qid,
        "phrase_type": phrase,
        "image_name": image,
        "image_organ": "CHEST",
        "question": question,
        "question_type": "PRES",
        "answer": answer,
        "answer_type": kind,
    }


RAD_TEST = [
    rad_row("1", "synpic1.jpg", "Is there a mass?", "No", "CLOSED ", "test_freeform"),
    rad_row("2", "synpic1.jpg", "Which side?", "left lung", "OPEN", "test_para"),
    rad_row("3", "synpic2.jpg", "How many ribs?", 12, "OPEN", "test_freeform"),
]
RAD_TRAIN = [
    rad_row("4", "synpic1.jpg", "Is it normal?", "Yes", "CLOSED", "freeform"),
    rad_row("4", "synpic1.jpg", "Does it look normal?", "Yes", "CLOSED", "freeform"),
    rad_row("5", "synpic3.jpg", "CT or MRI?", "mri", "CLOSED", "para"),
    rad_row("6", "synpic2.jpg", "What organ?", "", "OPEN", "para"),
]


def own_release(folder: Path) -> Path:
    """VQA-RAD as its authors publish it: one file for both splits."""
    write_json(folder / "VQA_RAD Dataset Public.json", RAD_TRAIN + RAD_TEST)
    images = folder / "VQA_RAD Image Folder"
    write_images(images, "synpic1.jpg", "synpic2.jpg", "synpic3.jpg")
    return folder


def mevf(folder: Path, *, with_images: bool = True) -> Path:
    """The layout of MEVF: two files, images in pickles, and often a folder of them too."""
    write_json(folder / "trainset.json", RAD_TRAIN)
    write_json(folder / "testset.json", RAD_TEST)
    (folder / "imgid2idx.json").write_text('{"synpic1.jpg": 0}')
    (folder / "images84x84.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    if with_images:
        write_images(folder / "images", "synpic1.jpg", "synpic2.jpg", "synpic3.jpg")
    return folder


def slake_row(qid, image, language, question, answer, kind):
    return {
        "img_id": 1,
        "img_name": image,
        "question": question,
        "answer": answer,
        "q_lang": language,
        "location": "Lung",
        "modality": "X-Ray",
        "answer_type": kind,
        "base_type": "vqa",
        "content_type": "Organ",
        "triple": ["vhead", "_", "_"],
        "qid": qid,
    }


SLAKE_TEST = [
    slake_row(0, "xmlab1/source.jpg", "en", "Is the lung healthy?", "No", "CLOSED"),
    slake_row(1, "xmlab1/source.jpg", "en", "What organ is this?", "Lung", "OPEN"),
    slake_row(2, "xmlab1/source.jpg", "zh", "肺部健康吗?", "不健康", "CLOSED"),
    slake_row(3, "xmlab2/source.jpg", "en", "Left or right?", "Left", "CLOSED"),
]


def slake(folder: Path) -> Path:
    """SLAKE's own folders."""
    write_json(folder / "test.json", SLAKE_TEST)
    write_json(folder / "validate.json", SLAKE_TEST[:2])
    write_json(folder / "train.json", [dict(SLAKE_TEST[0], img_name="xmlab3/source.jpg")])
    write_images(folder / "imgs", *(f"xmlab{i}/source.jpg" for i in (1, 2, 3)))
    (folder / "imgs/xmlab1/detection.json").write_text("[]")
    return folder


def slake_hub(folder: Path) -> Path:
    """SLAKE as the hub has it: JSON beside an archive."""
    slake(folder / "made")
    for name in ("test", "train"):
        (folder / f"{name}.json").write_text((folder / f"made/{name}.json").read_text())
    with zipfile.ZipFile(folder / "imgs.zip", "w") as archive:
        for file in (folder / "made/imgs").rglob("*.jpg"):
            archive.write(file, f"imgs/{file.parent.name}/{file.name}")
    return folder


def parquet(folder: Path) -> Path:
    """PathVQA and the hub's VQA-RAD: Parquet with the images inside, no answer_type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"image": (1, "a.png"), "question": "is there necrosis?", "answer": "yes"},
        {"image": (1, "c.png"), "question": "what is present?", "answer": "granuloma"},
        {"image": (2, "b.png"), "question": "are nuclei large?", "answer": "No."},
    ]
    for row in rows:
        shade, path = row["image"]
        row["image"] = {"bytes": picture(shade), "path": path}
    (folder / "data").mkdir(parents=True)
    for split, part in (("test", rows), ("train", rows[:2]), ("validation", rows[2:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"data/{split}-00000-of-00001.parquet")
    return folder


def llava(folder: Path) -> Path:
    """LLaVA-Med's test.json: conversations, integer ids, the misspelt key, a number as answer."""

    def item(key, number, image, question, answer, kind):
        turns = [
            {"from": "human", "value": f"{question}\n<image>"},
            {"from": "gpt", "value": answer},
        ]
        return {"id": number, "image": image, "answer_type": kind, key: turns}

    items = [
        item("conversations", 0, "a.jpg", "Is the heart normal?", "no", "CLOSED"),
        item("conversatons", 1, "a.jpg", "Which lobe?", "right upper lobe", "OPEN"),
        item("conversations", 2, "b.jpg", "How many?", 3, "OPEN"),
    ]
    write_json(folder / "test.json", items)
    write_json(folder / "train.json", items[1:])
    write_images(folder / "images", "a.jpg", "b.jpg")
    return folder


def pmcvqa(folder: Path) -> Path:
    """PMC-VQA: CSV; answers as letters or as text, choices with their letters in front."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["Figure_path", "Question", "Choice A", "Choice B", "Choice C", "Choice D"]
    rows = [
        ["p1.jpg", "Uptake?", " A:Diffuse ", " B:Focal ", " C:None ", " D:Unclear ", "Focal", "B"],
        ["p2.jpg", "Stain?", "A:HE", "B:PAS", "C:IHC", "D:Silver", "IHC", "C"],
    ]
    with (folder / "test_clean.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([[*names, "Answer", "Answer_label"], *rows])
    letters = [[*row[:6], row[7]] for row in rows] + [["p1.jpg", "Bad?", "A:x", "B:y", "", "", "z"]]
    with (folder / "test_2.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([[*names, "Answer"], *letters])
    write_images(folder / "images", "p1.jpg", "p2.jpg")
    return folder


def omnimedvqa(folder: Path) -> Path:
    """OmniMedVQA: one JSON per source dataset, options in fields of their own."""

    def item(number, image, answer):
        return {
            "dataset": "ACRIMA",
            "question_id": f"acrima_{number}",
            "question_type": "Modality Recognition",
            "question": "What imaging technique is this?",
            "gt_answer": answer,
            "image_path": image,
            "option_A": "CT",
            "option_B": "Fundus imaging",
            "option_C": "MR",
            "modality_type": "Fundus Photography",
        }

    place = folder / "QA_information/Open-access"
    write_json(place / "ACRIMA.json", [item(1, "Images/ACRIMA/a.png", "Fundus imaging")])
    write_json(place / "Other.json", [item(2, "Images/Other/b.png", "CT")])
    write_images(folder, "Images/ACRIMA/a.png", "Images/Other/b.png")
    return folder
