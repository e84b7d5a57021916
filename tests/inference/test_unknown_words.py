"""Texts of words that a model never saw: what is recorded in its file, and which texts are warned of."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.training_runs import SIZE, WORDS, StopsAt, Walls, tiny

import image_text_embedding as ite
from image_text_embedding.demo.packaged_gallery import gallery
from image_text_embedding.inputs.text_encoder import TextEncoder, UnknownWordsWarning
from image_text_embedding.inputs.text_rules import TextRules
from image_text_embedding.inputs.tokenizer import Tokenizer
from image_text_embedding.interfaces.cli.app import main
from image_text_embedding.models.checkpoints.checkpoint_files import METADATA_KEY
from image_text_embedding.models.checkpoints.seen_pieces import pack_seen_pieces, read_seen_pieces
from image_text_embedding.models.devices import torch_threads
from image_text_embedding.training import train
from image_text_embedding.training.run_folder import RunFolder

RULES = TextRules(max_words=30, max_tokens=40, sep=True)
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "dog",
    "cat",
    "ted",
    "##dy",
    "##bear",
    "x",
    "##y",
    "of",
    "photo",
]
PICTURES = [entry["path"] for entry in gallery()[:2]]


def unknown(texts: list[str], seen: np.ndarray | None, words: list[str]) -> list[str]:
    """The warning's words."""
    encoder = TextEncoder(Tokenizer({word: i for i, word in enumerate(words)}), RULES, "mine", seen)
    for text in texts:
        encoder(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder.warn(0)
    assert len(caught) <= 1
    return re.findall(r"'([^']*)'", str(caught[0].message)) if caught else []


class TestWhichTexts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a dog", []),
            ("a teddybear", []),
            ("xy", ["xy"]),
            ("a photo of xyyy", ["xyyy"]),  # empty words count for nothing
            ("a dog x", ["x"]),  # half
            ("a dog, a cat and x", ["and", "x"]),
            ("a dog, a cat, x", []),
            ("a dog xyyy", ["xyyy"]),
            ("€ €", []),  # no word
            ("émigré", ["émigré"]),
            ("a photo of a", []),
        ],
    )
    def test_half_of_the_pieces(self, text: str, expected: list[str]) -> None:
        seen = np.array([word not in ("x", "##y") for word in PIECES])
        if "and" in text:
            expected = []  # "and" is an empty word too
        assert unknown([text], seen, PIECES) == expected

    def test_without_a_record_only_unk_is_unknown(self) -> None:
        assert unknown(["xy", "a dog"], None, PIECES) == []
        assert unknown(["zzz", "a zebra and a zoo"], None, PIECES) == ["zzz", "zebra", "zoo"]

    def test_many_and_hostile_words_make_a_short_line(self) -> None:
        texts = [f"z{number}\x1b[31m{'z' * 80}" for number in range(50)]
        encoder = TextEncoder(Tokenizer({word: i for i, word in enumerate(PIECES)}), RULES, "mine", None)
        for text in texts:
            encoder(text)
        with pytest.warns(
            UnknownWordsWarning, match="50 of 50 texts consist mostly of words that mine never saw"
        ) as caught:
            encoder.warn(0)
        message = str(caught[0].message)
        assert len(message) < 600 and "\x1b" not in message and "more)" in message


class TestPackagedModels:
    @pytest.mark.parametrize("name", ["blip_demo", "albef_demo"])
    def test_every_method_says_it_once(self, name: str) -> None:
        model, texts = ite.load(name), ["xqzt blorp", "zzz"]
        calls: list[Callable[[], Any]] = [
            lambda: model.encode_text(texts),
            lambda: list(model.stream_text(texts)),
            lambda: model.match(PICTURES, texts),
            lambda: model.match_matrix(PICTURES, texts),
            lambda: model.rerank(PICTURES[0], texts),
            lambda: model.analyze(PICTURES[0], ["match"], texts=texts[0]),
            lambda: model.explain(PICTURES[0], texts[0]),
        ]
        for call in calls:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                call()
            (one,) = [each for each in caught if issubclass(each.category, ite.UnknownWordsWarning)]
            assert "'xqzt'" in str(one.message) and name in str(one.message)
            assert one.filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error", ite.UnknownWordsWarning)
            model.encode_text(["a teddy bear on a skateboard", "A DOG", "a picture of an anchor"])

    def test_the_commands_say_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        index = ["index", str(Path(PICTURES[0]).parent), "--uri", "g.db"]
        for arguments in (
            ["rank", "xqzt blorp"],
            ["match", "xqzt blorp", PICTURES[0]],
            index,
            ["search", "xqzt blorp", "--uri", "g.db"],
        ):
            monkeypatch.setattr("sys.argv", ["image-text-embedding", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
            out, err = capsys.readouterr()
            assert not ended.value.code, err
            said = [line for line in err.splitlines() if "never saw in training" in line]
            assert len(said) == (arguments[0] != "index"), (arguments, err)
            assert "never saw" not in out


class TestRecord:
    @pytest.fixture
    def vocabulary(self, tmp_path: Path) -> Path:
        (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n")
        return tmp_path / "words.txt"

    def run(self, vocabulary: Path, out: Path, model: Any = None, source: Any = None, **more: Any) -> Path:
        settings = {"tasks": ["itc", "lm"], "steps": 2, "batch_size": 8, "crop_scale": None, "checkpoint_every": 1}
        with torch_threads(1), pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunFolder, "plot", lambda _: None)
            source = [Walls()[i] for i in (0, 1)] if source is None else source
            return train(
                tiny("blip") if model is None else model,
                source,
                out,
                settings,
                vocabulary=vocabulary,
                device="cpu",
                show_progress_bar=False,
                **more,
            )

    def seen(self, path: Path) -> set[str]:
        found = read_seen_pieces(path, SIZE + 2)
        assert found is not None and found.shape == (SIZE + 2,)
        return {word for word, is_seen in zip([*WORDS, "[DEC]", "[ENC]"], found) if is_seen}

    def test_training_records_what_it_saw(self, vocabulary: Path, tmp_path: Path) -> None:
        first = self.run(vocabulary, tmp_path / "run")
        assert self.seen(first) == {"a", "red", "green", "wall", "picture", "of", "[CLS]", "[SEP]", "[DEC]"}
        further = self.run(vocabulary, tmp_path / "further", first, [Walls()[2]])
        assert self.seen(further) == self.seen(first) | {"blue"}
        model = ite.load(further, tokenizer=vocabulary)
        with pytest.warns(ite.UnknownWordsWarning, match="'pink'"):
            model.encode_text("a pink")
        saved = model.save(tmp_path / "saved.safetensors")
        assert self.seen(saved) == self.seen(further)

    def test_a_resumed_run_remembers(self, vocabulary: Path, tmp_path: Path) -> None:
        straight = self.run(vocabulary, tmp_path / "straight", source=Walls(16))
        with pytest.raises(KeyboardInterrupt):
            stopped = StopsAt(3)
            stopped.count = 16
            self.run(vocabulary, tmp_path / "run", source=stopped)
        resumed = self.run(vocabulary, tmp_path / "run", source=Walls(16), resume=True)
        assert self.seen(resumed) == self.seen(straight)

    def test_weights_without_a_record_get_none(self, vocabulary: Path, tmp_path: Path) -> None:
        first = self.run(vocabulary, tmp_path / "run")
        plain = self.rewritten(first, tmp_path / "plain.safetensors", lambda content: content.pop("seen_pieces"))
        assert read_seen_pieces(plain, SIZE + 2) is None
        assert read_seen_pieces(self.run(vocabulary, tmp_path / "further", plain), SIZE + 2) is None

    def rewritten(self, path: Path, out: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
        with safe_open(path, "pt") as file:
            content = json.loads(file.metadata()[METADATA_KEY])
        change(content)
        save_file(load_file(path), out, metadata={METADATA_KEY: json.dumps(content)})
        return out

    @pytest.mark.parametrize("wrong", ["", "zz", "00", "ff" * 5000, 3, ["ff"], {"a": 1}, "é" * 6])
    def test_a_wrong_record_is_named(self, wrong: Any, vocabulary: Path, tmp_path: Path) -> None:
        first = self.run(vocabulary, tmp_path / "run")
        path = self.rewritten(first, tmp_path / "x.safetensors", lambda content: content.update(seen_pieces=wrong))
        with pytest.raises(ite.CheckpointError, match="seen_pieces: expected 8 hexadecimal digits") as error:
            ite.load(path, tokenizer=vocabulary)
        assert len(str(error.value)) < 500

    def test_bits_are_pieces(self, tmp_path: Path) -> None:
        seen = np.arange(19) % 3 == 0
        assert pack_seen_pieces(seen) == "924920"
