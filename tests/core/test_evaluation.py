"""An evaluation's parts: what is drawn, asked, read, kept, averaged and shown."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import fmean, pstdev

import pytest
import torch
from PIL import Image

from lorweb_core import LoRWebError
from lorweb_core.evaluation.judge import Address, RemoteJudge, StandIn, check_judge
from lorweb_core.evaluation.page import write_page
from lorweb_core.evaluation.questions import Rating, ask_preference, ask_rating, read_preference, read_rating
from lorweb_core.evaluation.run_folder import MEASURES, EvaluationFolder
from lorweb_core.evaluation.settings import EvaluationSettings, Group
from lorweb_core.evaluation.table import tables
from lorweb_core.evaluation.tasks import Pictures, draw_items, load
from lorweb_core.evaluation.ways import WAYS


@pytest.fixture
def data(tmp_path) -> Path:
    """Three tasks of three pairs, `new-…` among them, and a caption with markup in it."""
    for number, task in enumerate(("new-one", "red", "blue")):
        (tmp_path / "data" / task).mkdir(parents=True)
        for pair in range(3):
            for shift, when in enumerate(("before", "after")):
                colour = (40 * number, 60 * pair, 100 * shift)
                Image.new("RGB", (24, 20), colour).save(tmp_path / "data" / task / f"{pair}_{when}.png")
        (tmp_path / "data" / task / "caption.txt").write_text(f"<script>{task}</script>", "utf-8")
    return tmp_path / "data"


def settings(data: Path, **changed) -> EvaluationSettings:
    return EvaluationSettings(**{"data": str(data), "basis": "basis", "model": "model", "limit": 2} | changed)


def test_the_draw_is_the_same_every_time_and_pairs_are_apart(data):
    items = draw_items(settings(data))
    assert items == draw_items(settings(data))
    assert items != draw_items(settings(data, seed=51))
    assert len(items) == 6 and len({item.key for item in items}) == 6 and len({item.seed for item in items}) == 6
    for item in items:
        a, a_prime, b, b_prime = (picture.path.stem for picture in item.analogy.pictures)
        assert a.split("_")[0] == a_prime.split("_")[0] != b.split("_")[0] == b_prime.split("_")[0]
    assert items[0].prompt == "<script>blue</script>"
    assert {item.prompt for item in draw_items(settings(data, prompts="none"))} == {""}


def test_groups_take_what_matches_them_first(data):
    groups = (Group("new", "new-*"), Group("rest", "*"))
    items = draw_items(settings(data, groups=groups))
    assert {item.task: item.group for item in items} == {"new-one": "new", "red": "rest", "blue": "rest"}
    few = draw_items(settings(data, groups=groups, tasks=1))
    assert [item.group for item in few] == ["new", "new", "rest", "rest"]
    assert all(item in items for item in few)
    with pytest.raises(LoRWebError, match="group odd has no task"):
        draw_items(settings(data, groups=(Group("odd", "x*"),)))


@pytest.mark.parametrize(
    "answer, rating",
    [
        ('{"preservation": 7, "accuracy": 10}', Rating(7, 10)),
        ("**Preservation**: 3\nAccuracy = 4.0", Rating(3, 4)),
        ('{"preservation": 7}', None),
        ('{"preservation": 0, "accuracy": 5}', None),
        ('{"preservation": 11, "accuracy": 5}', None),
        ('{"preservation": -3, "accuracy": 5}', None),
        ('{"preservation": 7.5, "accuracy": 5}', None),
        ("preservation: 5 accuracy: 5 ... preservation: 6 accuracy: 6", None),
        ("preservation (1-10): 8, accuracy (1-10): 9", None),
        ("I like both.", None),
        ("", None),
    ],
)
def test_ratings_are_read_or_are_nonsense(answer, rating):
    assert read_rating(answer) == rating


@pytest.mark.parametrize(
    "answer, said",
    [("R1", "r1"), ("r2.", "r2"), ("A tie", "tie"), ("R1 and R2", None), ("R12", None), ("neither", None)],
)
def test_preferences_are_read_or_are_nonsense(answer, said):
    assert read_preference(answer) == said


def test_the_stand_in_answers_in_a_judges_form():
    a, b = torch.zeros(20, 24, 3), torch.full((20, 24, 3), 0.5)
    edited, copied = b + 0.4, b
    assert read_rating(StandIn().answer(ask_rating(a, a + 0.4, b, copied))) == Rating(10, 1)
    assert read_rating(StandIn().answer(ask_rating(a, a + 0.4, b, edited))) == Rating(1, 10)
    assert read_preference(StandIn().answer(ask_preference(a, a + 0.4, b, copied, b - 0.4))) == "r1"
    assert read_preference(StandIn().answer(ask_preference(a, a + 0.4, b, copied, copied))) == "tie"


class Server(ThreadingHTTPServer):
    """A judge at an address: answers with what `replies` hold, one after the other, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, bytes]] = []
        self.asked: list[tuple[str, str | None, dict]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        status, reply = self.server.replies.pop(0)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.path)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def said(text: str) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def remote(server: Server, waited: list[float] | None = None, retries: int = 2) -> RemoteJudge:
    address = Address(f"http://127.0.0.1:{server.server_port}/v1/", "vlm", 5.0, retries)
    return RemoteJudge(address, "secret", (waited if waited is not None else []).append)


def question():
    return ask_rating(*torch.rand(4, 20, 1500, 3, generator=torch.Generator().manual_seed(0)))


def test_an_address_is_asked_in_the_openai_form(server):
    server.replies = [said("yes")]
    assert remote(server).answer(question()) == "yes"
    ((path, key, body),) = server.asked
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "vlm")
    parts = body["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url"] * 4 + ["text"]
    assert [part["text"] for part in parts[:-1:2]] == ["Picture A:", "Picture A':", "Picture B:", "Picture R:"]
    assert all(part["image_url"]["url"].startswith("data:image/png;base64,iVBOR") for part in parts[1::2])


def test_an_address_that_is_busy_is_asked_again_and_counted(server):
    server.replies, waited = [(503, b""), (429, b""), said("at last")], []
    judge = remote(server, waited)
    assert judge.answer(question()) == "at last"
    assert judge.retried == 2 and waited == [1, 2]


@pytest.mark.parametrize(
    "replies, why, asked",
    [
        ([(401, b"")], "HTTP 401", 1),
        ([(302, b"")], "HTTP 302", 1),
        ([(500, b"")] * 3, "HTTP 500, after 2 further tries", 3),
        ([(200, b"<html>")], "not in the OpenAI form", 1),
        ([(200, b'{"choices": []}')], "not in the OpenAI form", 1),
    ],
)
def test_an_address_that_fails_ends_it_in_words(server, replies, why, asked):
    server.replies = replies
    with pytest.raises(LoRWebError, match=re.escape(why)) as refused:
        remote(server).answer(question())
    assert len(server.asked) == asked and "secret" not in str(refused.value)


def test_an_address_that_is_not_there_is_said():
    with pytest.raises(LoRWebError, match="cannot be asked"):
        RemoteJudge(Address("http://127.0.0.1:9", None, 1.0, 0)).answer(question())


@pytest.mark.parametrize("address", ["https://user:pw@host/v1", "http://host/v1?key=pw", "https:///v1"])
def test_no_key_may_stand_in_an_address(address):
    with pytest.raises(LoRWebError, match="LORWEB_JUDGE_KEY") as refused:
        check_judge(address)
    assert "pw" not in str(refused.value)


Begin = Callable[..., EvaluationFolder]


@pytest.fixture
def begin(tmp_path) -> Begin:
    def begin(**document) -> EvaluationFolder:
        folder = EvaluationFolder(tmp_path / "out")
        with folder.locked():
            folder.begin(document)
        return folder

    return begin


def test_what_was_measured_is_there_again_but_for_half_a_line(begin, data):
    item, other = draw_items(settings(data))[:2]
    folder = begin(steps=1)
    folder.record("measures", "copy", item, {"lpips": 0.25})
    folder.record("measures", "copy", other, {"lpips": 0.5})
    path = folder.path / MEASURES
    path.write_bytes(path.read_bytes()[:-5])
    again = begin(steps=1)
    assert again.recorded("measures", "copy", item) == {"lpips": 0.25}
    assert again.recorded("measures", "copy", other) is None
    again.record("measures", "copy", other, {"lpips": 0.75})
    assert begin(steps=1).recorded("measures", "copy", other) == {"lpips": 0.75}
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(LoRWebError, match="line 1 is damaged"):
        begin(steps=1)


def test_other_settings_are_refused_by_name(begin, tmp_path):
    begin(steps=1, ways=("a", "b"))
    begin(steps=1, ways=("a", "b"))
    with pytest.raises(LoRWebError, match="begun with another steps: 1, and now it is 2"):
        begin(steps=2, ways=("a", "b"))
    with pytest.raises(LoRWebError, match="begun with another ways"):
        begin(steps=1, ways=("b",))
    (tmp_path / "out" / "evaluation.json").write_text("{")
    with pytest.raises(LoRWebError, match="damaged"):
        begin(steps=1)


def test_what_nothing_was_measured_with_may_change(begin, data):
    (item, *_) = draw_items(settings(data))
    begin(steps=1, clip="none", judge="none")
    folder = begin(steps=1, clip="clip", judge="none")
    folder.record("measures", "copy", item, {"clip_image": 0.0})
    with pytest.raises(LoRWebError, match="another clip: 'clip', and now it is 'none'"):
        begin(steps=1, clip="none", judge="none")
    folder = begin(steps=1, clip="clip", judge="stand-in")
    folder.record("rating", "copy", item, {"answers": []})
    with pytest.raises(LoRWebError, match="another judge: 'stand-in'"):
        begin(steps=1, clip="clip", judge="none")


def test_a_folder_with_other_files_and_one_in_use_are_refused(begin, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(LoRWebError, match="other files"):
        begin()
    folder = EvaluationFolder(tmp_path / "other")
    with folder.locked(), pytest.raises(LoRWebError, match="another process"), folder.locked():
        pass


def filled(begin: Begin, data: Path, chosen: EvaluationSettings) -> EvaluationFolder:
    """An evaluation whose measures are numbers made up, and written down here again."""
    folder, sense = begin(), {"said": "ok", "nonsense": False, "retried": 0}
    for number, item in enumerate(draw_items(chosen)):
        pictures = load(item)
        folder.keep_given(item, pictures)
        for way in chosen.ways:
            folder.keep_result(way, item, pictures.b)
        folder.record("measures", "routed", item, {"lpips": number / 10, "error": None})
        if number:
            rating = {"preservation": number, "accuracy": 10 - number}
            folder.record("rating", "routed", item, rating | {"answers": [sense]})
            outcome = {"won": number % 2, "tied": 1 - number % 2, "lost": 0}
            folder.record("preference", "copy", item, outcome | {"answers": [sense] * 2})
        else:
            folder.record("rating", "routed", item, {"answers": [{"said": "<b>?", "nonsense": True, "retried": 3}]})
    return folder


def test_each_task_is_averaged_first_and_nonsense_is_left_out(begin, data):
    chosen = settings(data, groups=(Group("rest", "[br]*"),), judge="stand-in")
    items = draw_items(chosen)
    every, rest = tables(filled(begin, data, chosen), items, chosen.ways, chosen.held_against)
    assert [item.task for item in items] == ["blue", "blue", "red", "red", "new-one", "new-one"]
    cell = every.cells["routed"]["lpips"]
    assert cell.mean == pytest.approx(0.25) and cell.spread == pytest.approx(pstdev([0.05, 0.25, 0.45]))
    assert (every.tasks, every.items, rest.tasks, rest.items) == (3, 6, 2, 4)
    assert every.cells["routed"]["preservation"].mean == pytest.approx(fmean([1, 2.5, 4.5]))
    assert rest.cells["routed"]["accuracy"].mean == pytest.approx(fmean([9, 7.5]))
    assert every.cells["routed"]["error"] is None and every.cells["copy"]["lpips"] is None
    assert every.preferences["copy"]["won"].mean == pytest.approx(fmean([1, 0.5, 0.5]))


def test_the_page_escapes_what_it_is_given_and_says_what_is_a_stand_in(begin, data):
    chosen = settings(data, judge="stand-in", groups=(Group("<i>", "*"),), lpips_weights="<u>.pth")
    folder = filled(begin, data, chosen)
    page = write_page(folder, chosen, draw_items(chosen)).read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;red" in page and "<i>" not in page and "<u>" not in page
    assert "preservation (stand-in)" in page and "worth nothing" in page and "LPIPS (own weights)" in page
    assert "1 of 6 answers" in page and "asked again 3 times" in page and "2602.15727" in page and "5.94" in page
    shown = re.findall(r'<img src="([^"]+)"', page)
    assert len(shown) == 6 * (4 + 2) and all((folder.path / path).is_file() for path in shown)
    assert json.loads((folder.path / "table.json").read_text())["answers"]["rating"] == {
        "asked": 6,
        "nonsense": 1,
        "retried": 3,
    }


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"ways": ("routed", "magic")}, "ways is 'magic'"),
        ({"ways": ("copy", "copy")}, "names one twice"),
        ({"ways": ("lora",)}, "go together"),
        ({"lora": "x.safetensors"}, "go together"),
        ({"against": "fitted"}, "against is 'fitted'"),
        ({"limit": 0}, "limit is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"megapixels": float("nan")}, "megapixels is nan"),
        ({"lpips": "squeeze"}, "lpips is 'squeeze'"),
    ],
)
def test_settings_that_cannot_be_are_refused(data, changed, words):
    with pytest.raises(LoRWebError, match=re.escape(words)):
        settings(data, **changed).check(tuple(WAYS))


def test_lpips_is_what_its_definition_says(tmp_path):
    lpips = pytest.importorskip("lpips", reason="needs lpips: pip install .[eval]")
    from torch.nn.functional import conv2d, max_pool2d, normalize, relu

    from lorweb_core.evaluation.metrics import Lpips

    layers = {0: (64, 3, 11, 4, 2), 3: (192, 64, 5, 1, 2), 6: (384, 192, 3, 1, 1), 8: (256, 384, 3, 1, 1)}
    layers[10] = (256, 256, 3, 1, 1)
    random = torch.Generator().manual_seed(0)
    state = {}
    for index, (out, into, side, _, _) in layers.items():
        state[f"features.{index}.weight"] = torch.randn(out, into, side, side, generator=random) / (into * side)
        state[f"features.{index}.bias"] = torch.randn(out, generator=random) / 10
    torch.save(state, tmp_path / "alexnet.pth")
    weights = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"
    linear = list(torch.load(weights, "cpu", weights_only=True).values())
    b, result = torch.rand(2, 64, 80, 3, generator=random)
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = ((torch.stack([b, result]) * 2 - 1 - mean) / std).movedim(-1, 1)
    expected = 0.0
    for (index, (_, _, _, stride, padding)), share in zip(layers.items(), linear):
        x = max_pool2d(x, 3, 2) if index in (3, 6) else x
        x = relu(conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], stride, padding))
        one, other = normalize(x, dim=1, eps=1e-10)
        expected += ((one - other).square()[None] * share).sum(1).mean().item()
    measure = Lpips("alex", str(tmp_path / "alexnet.pth"), torch.device("cpu")).measure
    assert measure(b, result) == pytest.approx(expected, rel=1e-4)
    assert measure(b, b) == 0
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(LoRWebError, match="features.0.weight is missing"):
        Lpips("alex", str(tmp_path / "empty.pth"), torch.device("cpu"))


def test_clip_directions_are_cosines_of_differences(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install .[cli]")
    from lorweb_core.evaluation.metrics import Clip

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower = {**sizes, "projection_dim": 24}
    letters = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *(f"{c}</w>" for c in "abc")])}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.CLIPConfig(
        text_config={**tower, **ends, "vocab_size": len(letters), "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(letters))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer.from_pretrained(tmp_path, model_max_length=8).save_pretrained(tmp_path)

    def image(picture: torch.Tensor) -> torch.Tensor:
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        pixels = ((picture - torch.tensor(mean)) / torch.tensor(std)).movedim(-1, 0)[None]
        return model.visual_projection(model.vision_model(pixels).pooler_output)[0]

    def text(*ids: int) -> torch.Tensor:
        return model.text_projection(model.text_model(torch.tensor([ids])).pooler_output)[0]

    pictures = (torch.rand(4, 32, 32, 3) * 255).round() / 255
    a, a_prime, b, result = pictures
    with torch.no_grad():
        change = image(result) - image(b)
        wanted = [image(a_prime) - image(a), text(0, 2, 4, 1) - text(0, 1)]
        expected = [torch.cosine_similarity(change, each, 0).item() for each in wanted]
    clip = Clip(str(tmp_path), torch.device("cpu"))
    assert clip.directions(Pictures(a, a_prime, b, b), result, "a c") == pytest.approx(expected, abs=1e-4)
    assert clip.directions(Pictures(a, a_prime, b, b), b, "a c") == (0, 0)
    assert clip.directions(Pictures(a, a_prime, b, b), result, "")[1] is None
