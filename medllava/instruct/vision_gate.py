"""Does the picture bear a pair out? A trained checkpoint is asked with it, and with other pictures.

A pair and picture files go in, a score comes out: by how much likelier the answer is with its own
picture than with others, in nats per token. An answer that the checkpoint finds much likelier with
other pictures is dropped; one that fits all pictures alike scores near zero and is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medllava.errors import DataError
from medllava.images.limits import ImageError
from medllava.instruct.alignment import draw
from medllava.instruct.candidates import Candidate
from medllava.instruct.config import GenerateConfig
from medllava.instruct.figures import figures_image_dir, iter_figures, manifest_path
from medllava.instruct.output import InstructionsWriter
from medllava.instruct.parse import Pair
from medllava.records import IMAGE_TOKEN, InstructionRecord, Stage, Turn
from medllava.store import contained_path

if TYPE_CHECKING:
    from torch import Tensor

NOT_SEEN = "not_in_picture"
UNREADABLE = "image_unreadable"
LEAST_GAIN = -0.25
"""Nats per token: what scores less is dropped. Where the benchmark kept its right pairs."""
_NUM_OTHERS = 4
_MOST_TOKENS = 1024


class VisionGate:
    """A checkpoint that tells how much a picture says for an answer."""

    def __init__(self, checkpoint: str, *, device: str = "auto") -> None:
        """Load it.

        Raises:
            SetupError: it is no model of ours, or does not fit.
        """
        from medllava.data.pixels import PixelReader  # noqa: PLC0415 - imports torch
        from medllava.model.load import load_model  # noqa: PLC0415 - as above
        from medllava.model.processor import num_image_tokens  # noqa: PLC0415 - as above

        loaded = load_model(checkpoint, device=device)
        self._model: Any = loaded.model
        self._processor: Any = loaded.processor
        self._image_tokens = num_image_tokens(loaded.processor)
        self._reader = PixelReader(self._processor.image_processor)

    def score(self, pair: Pair, picture: Path, others: Sequence[Path]) -> float:
        """Return how much likelier the answer is with its picture than with others on average.

        Args:
            pair: question and answer.
            picture: file of the pair's own picture.
            others: files of other pictures, at least one.

        Returns:
            Difference of mean log-likelihoods, nats per token of the answer.

        Raises:
            ImageError: a picture cannot be read.
        """
        own, *rest = self._likelihoods(pair, [picture, *others])
        return own - sum(rest) / len(rest)

    def _likelihoods(self, pair: Pair, pictures: Sequence[Path]) -> list[float]:
        import torch  # noqa: PLC0415 - slow to import

        input_ids, is_answer = self._encode(pair)
        ids = torch.tensor([input_ids] * len(pictures), device=self._model.device)
        pixels: Tensor = self._reader.read(pictures).to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            logits = self._model(
                input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)
            ).logits
        places = torch.tensor(is_answer, device=ids.device).nonzero()[:, 0]
        log_p = torch.log_softmax(logits[:, places - 1].float(), -1)
        told = log_p.gather(-1, ids[:, places, None])[..., 0]
        means: list[float] = told.mean(-1).tolist()
        return means

    def _encode(self, pair: Pair) -> tuple[list[int], list[bool]]:
        """Return the ids of the conversation, picture spread out, and which the answer is."""
        from medllava.data.tokenize import EncodedText, encode_records  # noqa: PLC0415

        record = InstructionRecord(
            record_id="",
            images=("picture",),
            turns=(
                Turn(role="user", content=f"{IMAGE_TOKEN}\n{pair.question}"),
                Turn(role="assistant", content=pair.answer),
            ),
            stage=Stage.INSTRUCT,
        )
        (encoded,) = encode_records(
            [record], self._processor, image_tokens=self._image_tokens, max_length=_MOST_TOKENS
        )
        if not isinstance(encoded, EncodedText):
            raise DataError(f"the checkpoint cannot read a pair: {encoded.describe()}")
        image_id = self._processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        ids: list[int] = []
        is_answer: list[bool] = []
        for token, told in zip(
            encoded.input_ids.tolist(), encoded.supervised.tolist(), strict=True
        ):
            count = self._image_tokens if token == image_id else 1
            ids += [token] * count
            is_answer += [told] * count
        return ids, is_answer


def gate_by_picture(
    config: GenerateConfig, writer: InstructionsWriter, candidates: Iterator[Candidate]
) -> Iterator[Candidate]:
    """Yield candidates with those pairs that their pictures bear out; write down the others.

    Scores go into the records' provenance as `picture_gain`. A picture that cannot be read has not
    been looked at, so its figure is left for another run.
    """
    if config.vision_gate is None:
        yield from candidates
        return
    gate = VisionGate(config.vision_gate)
    root = figures_image_dir(config.figures)
    pool = _draw_pictures(config, root)
    for candidate in candidates:
        figure = candidate.figure
        try:
            picture = contained_path(root, figure.images[0])
            others = [path for path in pool if path != picture][:_NUM_OTHERS]
            scores = [gate.score(pair, picture, others) for pair in candidate.pairs]
        except (ImageError, OSError) as error:
            writer.leave(figure.figure_id, UNREADABLE, detail=str(error))
            continue
        kept = []
        for pair, score in zip(candidate.pairs, scores, strict=True):
            if score >= LEAST_GAIN:
                kept.append((pair, score))
            else:
                writer.drop_turn(
                    figure.figure_id, NOT_SEEN, pair.question, pair.answer, detail=f"{score:.3f}"
                )
        if not kept:
            writer.reject(figure.figure_id, NOT_SEEN, raw=candidate.reply.text)
            continue
        mean = round(sum(score for _, score in kept) / len(kept), 3)
        yield replace(
            candidate,
            pairs=tuple(pair for pair, _ in kept),
            scores=candidate.scores | {"picture_gain": mean},
        )


def _draw_pictures(config: GenerateConfig, root: Path) -> list[Path]:
    """Return the pictures that stand in for others: of figures drawn by the seed.

    Raises:
        DataError: there are not two pictures.
    """
    found: list[tuple[int, Path]] = []
    for figure in iter_figures(manifest_path(config.figures), split=config.split):
        if figure.images:
            key = draw(config.seed, f"picture {figure.figure_id}")
            found.append((key, root / figure.images[0]))
            found = sorted(found)[: _NUM_OTHERS + 1]
    paths = [path for _, path in found if path.is_file()]
    if len(paths) < 2:
        raise DataError("--vision-gate compares with other pictures: there are too few.")
    return paths
