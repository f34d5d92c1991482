"""What the bundled workflows are: which nodes, how they are linked, and what is set outside of their blocks."""

from __future__ import annotations

from workflow_graph import BLOCK, NOTE, Block, Link, Node, Outer, Workflow

HUB = "https://huggingface.co"
KONTEXT, BASIS, VISION, VAE = (
    "flux1-dev-kontext_fp8_scaled.safetensors",
    "lorweb_model.safetensors",
    "clip-vit-large-patch14.safetensors",
    "ae.safetensors",
)
CLIP_L, T5 = "clip_l.safetensors", "t5xxl_fp8_e4m3fn_scaled.safetensors"
SOURCES = {
    KONTEXT: (
        "diffusion_models",
        f"Comfy-Org/flux1-kontext-dev_ComfyUI/resolve/main/split_files/diffusion_models/{KONTEXT}",
    ),
    BASIS: ("lorweb", f"hilamanor/lorweb/resolve/main/{BASIS}"),
    VISION: ("clip_vision", "openai/clip-vit-large-patch14/resolve/main/model.safetensors"),
    VAE: ("vae", f"Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/{VAE}"),
    CLIP_L: ("text_encoders", f"comfyanonymous/flux_text_encoders/resolve/main/{CLIP_L}"),
    T5: ("text_encoders", f"comfyanonymous/flux_text_encoders/resolve/main/{T5}"),
}
"""File → folder under models, and where on the hub it is."""

PROMPT = "Apply the same edit to this picture"
WORLD_PROMPTLESS = ("strength", "seed", "speed", "fit_steps")
SETTINGS = ("prompt", *WORLD_PROMPTLESS)
FILES = ("kontext", "basis", "image_encoder", "clip_l", "t5", "vae")
PICTURES = ("a", "a_prime", "b")
README = "https://github.com/lorweb/ComfyUI-LoRWeB"


def models(*files: str) -> tuple[dict[str, str], ...]:
    return tuple(
        {"name": file, "url": f"{HUB}/{address}", "directory": folder}
        for file, (folder, address) in ((file, SOURCES[file]) for file in files)
    )


WORLD_MEGAPIXELS = (2 * 64) ** 2 / 1024**2
"""Size of the small world's grids."""


# Outside


def picture(column: int, title: str, file: str) -> Node:
    return Node("LoadImage", column, {"image": f"lorweb_{file}.png"}, title, picture=206, label=("image", title))


def pictures() -> dict[str, Node]:
    return {
        "a": picture(0, "a: before", "before"),
        "a_prime": picture(1, "a′: after", "after"),
        "b": picture(0, "b: picture to edit", "picture"),
    }


def block_node(**inputs) -> Node:
    return Node(BLOCK, 2, inputs, width=360)


def shown_pictures() -> dict[str, Link]:
    return {name: Link(name) for name in PICTURES}


def save(title: str, images: Link, prefix: str) -> Node:
    return Node("SaveImage", 3, {"images": images, "filename_prefix": f"lorweb/{prefix}"}, title, 420, picture=330)


def compare(title: str, before: Link, after: Link) -> Node:
    return Node("ImageCompare", 3, {"image_a": before, "image_b": after}, title, 420, picture=330)


def note(*lines: str, column: int = 1) -> Node:
    return Node(NOTE, column, {"text": "\n".join(lines)}, "Read me", 340, picture=310)


def files_line() -> str:
    return f"Download the files that ComfyUI says are missing, or see [Install]({README}#install)."


# Inside


def kontext() -> Node:
    file = Outer("kontext", KONTEXT)
    return Node("UNETLoader", 0, {"unet_name": file, "weight_dtype": "default"}, models=models(KONTEXT))


def basis() -> Node:
    return Node("LoRWeBBasisLoader", 0, {"basis_name": Outer("basis", BASIS)}, models=models(BASIS))


def vision() -> Node:
    return Node("CLIPVisionLoader", 0, {"clip_name": Outer("image_encoder", VISION)}, models=models(VISION))


def texts() -> Node:
    files = {"clip_name1": Outer("clip_l", CLIP_L), "clip_name2": Outer("t5", T5)}
    return Node("DualCLIPLoader", 0, {**files, "type": "flux"}, models=models(CLIP_L, T5))


def autoencoder() -> Node:
    return Node("VAELoader", 0, {"vae_name": Outer("vae", VAE)}, models=models(VAE))


def prompt(title: str = "Prompt: the edit in words") -> Node:
    return Node("CLIPTextEncode", 1, {"clip": Link("texts"), "text": Outer("prompt", PROMPT)}, title, picture=90)


def guidance() -> Node:
    return Node("FluxGuidance", 1, {"conditioning": Link("prompt"), "guidance": 2.5})


def analogy(speed: str = "as trained", **more) -> Node:
    given = {name: Outer(name) for name in PICTURES}
    return Node("LoRWeBAnalogy", 1, given | {"speed": Outer("speed", speed)} | more)


def encoder(basis: Link, vision: Link, **more) -> Node:
    return Node("LoRWeBAnalogyEncoder", 2, {"basis": basis, "analogy": Link("analogy"), "clip_vision": vision}, **more)


def fit(model: Link, vae: Link, positive: Link, steps: int, **start: Link | Outer | None) -> Node:
    shared = {"model": model, "vae": vae, "positive": positive, "analogy": Link("analogy"), **start}
    return Node("LoRWeBFitMixture", 3, {**shared, "steps": Outer("fit_steps", steps)}, picture=160)


def apply(model: Link, mixture: Link) -> Node:
    return Node("LoRWeBMixedLoRAApply", 4, {"model": model, "mixture": mixture, "strength": Outer("strength", 1.0)})


def show(positive: Link, vae: Link, mixture: Link) -> Node:
    given = {"positive": positive, "vae": vae, "analogy": Link("analogy"), "mixture": mixture}
    return Node("LoRWeBExtendedAttention", 4, given, width=340)


def sample(steps: int, latent: Link | None = None) -> Node:
    latent = latent or Link("show", 2)
    given = {"model": Link("apply"), "positive": Link("show"), "negative": Link("show", 1), "latent_image": latent}
    noise = {"seed": Outer("seed", 50), "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    return Node("KSampler", 5, given | noise)


def decode(vae: Link) -> Node:
    return Node("VAEDecode", 6, {"samples": Link("sample"), "vae": vae})


def result(mixture: Link) -> Node:
    return Node("LoRWeBAnalogyResult", 6, {"image": Link("decode"), "analogy": Link("analogy"), "mixture": mixture})


def loaders() -> dict[str, Node]:
    return {"kontext": kontext(), "basis": basis(), "vision": vision(), "texts": texts(), "autoencoder": autoencoder()}


def edited(fit_steps: int, speed: str) -> dict[str, Node]:
    """List the nodes that make b′ on FLUX.1 Kontext, from the Analogy on."""
    vae, positive, mixture = Link("autoencoder"), Link("guidance"), Link("fit")
    return {
        "analogy": analogy(speed),
        "prompt": prompt(),
        "guidance": guidance(),
        "encoder": encoder(Link("basis"), Link("vision")),
        "fit": fit(Link("kontext"), vae, positive, fit_steps, mixture=Link("encoder")),
        "apply": apply(Link("kontext"), mixture),
        "show": show(positive, vae, mixture),
        "sample": sample(28),
        "decode": decode(vae),
        "result": result(mixture),
    }


def edit_by_example() -> Workflow:
    block = Block(
        "Edit by Example",
        "Makes b' by the example of a and a', with LoRWeB's basis of LoRAs on FLUX.1 Kontext.",
        (*PICTURES, *SETTINGS, *FILES),
        loaders() | edited(0, "as trained"),
        {"b_prime": Link("result"), "mixture": Link("fit")},
    )
    nodes = pictures() | {
        "block": block_node(**shown_pictures()),
        "save": save("b′: the result", Link("block"), "edit"),
        "compare": compare("b and b′", Link("b"), Link("block")),
        "note": note(
            f"1. {files_line()}",
            "2. Put your pictures in the place of the drawn ones, and say the edit in *prompt*.",
            "3. Run. **speed** at *b' alone, references kept* takes about a sixth of the time.",
            "4. Where b′ misses the edit, set **fit_steps** to 20: the mixture is fitted to the example first.",
            "5. A double click opens the block.",
        ),
    }
    return Workflow(nodes, block)


def try_it_now() -> Workflow:
    """Make b′ on the small world's models."""
    model, positive, vae, vision, basis = (Link("world", output) for output in range(5))
    mixture = Link("fit")
    block = Block(
        "Edit by Example, small",
        "Makes b' by the example of a and a', with the models of toy size that come with LoRWeB.",
        (*PICTURES, *WORLD_PROMPTLESS),
        {
            "world": Node("LoRWeBSmallWorld", 0),
            "analogy": analogy("as trained", megapixels=WORLD_MEGAPIXELS),
            "encoder": encoder(basis, vision),
            "fit": fit(model, vae, positive, 0, mixture=Link("encoder")),
            "apply": apply(model, mixture),
            "show": show(positive, vae, mixture),
            "sample": sample(12),
            "decode": decode(vae),
            "result": result(mixture),
        },
        {"b_prime": Link("result"), "mixture": Link("fit")},
    )
    nodes = pictures() | {
        "block": block_node(**shown_pictures()),
        "save": save("b′: the result", Link("block"), "first"),
        "compare": compare("b and b′", Link("b"), Link("block")),
        "note": note(
            "1. Run. Nothing need be downloaded: models of toy size come with the pack, and run on a CPU.",
            "2. Choose another picture b: *lorweb_picture_2.png*, or *lorweb_before.png*.",
            "3. Or another edit: *lorweb_after_2.png* as a′.",
            "4. The models know drawn scenes only. For photographs open *Edit by example*.",
            "5. A double click opens the block.",
        ),
    }
    inputs = (("a", "image"), ("a_prime", "image"), ("b", "image"), ("block", "strength"), ("block", "seed"))
    return Workflow(nodes, block, (*inputs, ("block", "fit_steps")), ("save",))


def best_of_four() -> Workflow:
    inside = loaders() | edited(0, "as trained")
    del inside["fit"]
    mixture = Link("encoder")
    scored = {"basis": Link("basis"), "analogy": Link("analogy"), "b_prime": Link("result")}
    inside |= {
        "apply": apply(Link("kontext"), mixture),
        "show": show(Link("guidance"), Link("autoencoder"), mixture),
        "repeat": Node("RepeatLatentBatch", 5, {"samples": Link("show", 2), "amount": Outer("tries", 4)}),
        "rebatch": Node("RebatchLatents", 5, {"latents": Link("repeat"), "batch_size": 1}),
        "sample": sample(28, Link("rebatch")),
        "result": result(mixture),
        "score": Node("LoRWeBAnalogyScore", 7, scored | {"clip_vision": Link("vision")}, picture=160),
    }
    block = Block(
        "Best of Four",
        "Makes b' from several noises, and keeps the one that follows the example best.",
        (*PICTURES, "prompt", "strength", "seed", "tries", "speed", *FILES),
        inside,
        {"best": Link("score"), "compared": Link("score", 3)},
    )
    nodes = pictures() | {
        "block": block_node(**shown_pictures()),
        "save": save("The best b′", Link("block"), "best"),
        "compare": compare("b and the best b′", Link("b"), Link("block")),
        "preview": Node("PreviewImage", 2, {"images": Link("block", 1)}, "All, ranked", 360, picture=280),
        "note": note(
            f"1. {files_line()}",
            "2. Put your pictures in the place of the drawn ones, and say the edit in *prompt*.",
            "3. Run: **tries** pictures are made from as many noises, one after the other.",
            "4. They are ranked by how they follow the example and leave the rest of b alone; the first is saved.",
            "5. A double click opens the block.",
        ),
    }
    return Workflow(nodes, block)


def from_one_edit_to_another() -> Workflow:
    vae, first = Link("autoencoder"), Link("encoder")
    second = {"a": Outer("a"), "a_prime": Outer("a_prime_2"), "b": Outer("b")}
    inside = loaders() | {
        "analogy": analogy("as trained", a_prime=Outer("a_prime_1")),
        "analogy_2": Node("LoRWeBAnalogy", 1, second | {"speed": Outer("speed", "as trained")}),
        "prompt": prompt(),
        "guidance": guidance(),
        "encoder": encoder(Link("basis"), Link("vision"), title="Analogy Encoder: edit 1"),
        "encoder_2": encoder(Link("basis"), Link("vision"), title="Analogy Encoder: edit 2"),
        "blend": Node(
            "LoRWeBMixtureBlend",
            3,
            {"mixture_1": first, "mixture_2": Link("encoder_2"), "weight_1": 0.0, "weight_2": 1.0, "steps": 5},
        ),
        "inspect": Node(
            "LoRWeBMixtureInspector", 3, {"mixture": first, "compare_with": Link("encoder_2")}, picture=160
        ),
        "apply": apply(Link("kontext"), Link("blend", 1)),
        "show": show(Link("guidance"), vae, first),
        "sample": sample(28),
        "decode": decode(vae),
        "result": result(first),
        "strip": Node(
            "LoRWeBPictureStrip",
            7,
            {"images": Link("result"), "captions": "edit 1\n3 : 1\n1 : 1\n1 : 3\nedit 2"},
            picture=60,
        ),
    }
    inside["encoder_2"].inputs["analogy"] = Link("analogy_2")
    block = Block(
        "From One Edit to Another",
        "Makes b' for five mixtures from one edit to the other, as a strip.",
        ("a", "a_prime_1", "a_prime_2", "b", "prompt", "strength", "seed", "speed", *FILES),
        inside,
        {"strip": Link("strip"), "b_primes": Link("result")},
    )
    given = {name: Link(name) for name in ("a", "a_prime_1", "a_prime_2", "b")}
    nodes = {
        "a": picture(0, "a: before", "before"),
        "a_prime_1": picture(1, "a′: edit 1", "after"),
        "a_prime_2": picture(1, "a′: edit 2", "after_2"),
        "b": picture(0, "b: picture to edit", "picture_2"),
        "block": block_node(**given),
        "save": save("The strip", Link("block"), "strip"),
        "compare": compare("b and each b′", Link("b"), Link("block", 1)),
        "note": note(
            f"1. {files_line()}",
            "2. Put your pictures in the place of the drawn ones: one *before*, two edits of it, and b.",
            "3. Run: five pictures go from edit 1 to edit 2. The model is shown edit 1; the mixture alone changes.",
            "4. In the block **Mixture Blend** has the ends: *weight_1* −0.5 and *weight_2* 1.5 go beyond edit 2.",
            "5. A double click opens the block.",
            column=2,
        ),
    }
    return Workflow(nodes, block)


def an_edit_as_a_lora() -> Workflow:
    inside = {
        "basis": basis(),
        "vision": vision(),
        "analogy": Node("LoRWeBAnalogy", 1, {name: Outer(name) for name in PICTURES}),
        "encoder": encoder(Link("basis"), Link("vision")),
        "edit": Node("LoRWeBMixtureEdit", 3, {"mixture": Link("encoder")}, "Mixture Edit: leave parts out"),
        "keep": Node("LoRWeBSaveMixture", 4, {"mixture": Link("edit"), "name": Outer("mixture_name", "my_edit")}),
    }
    block = Block(
        "Edit as Mixture",
        "Mixes the basis's LoRAs for the edit from a to a' on pictures like b, and saves the mixture.",
        (*PICTURES, "mixture_name", "basis", "image_encoder"),
        inside,
        {"mixture": Link("edit")},
    )
    nodes = pictures() | {
        "block": block_node(**shown_pictures()),
        "export": Node(
            "LoRWeBExportLoRA", 3, {"mixture": Link("block"), "name": "lorweb/edit"}, width=420, picture=200
        ),
        "inspect": Node("LoRWeBMixtureInspector", 3, {"mixture": Link("block")}, width=420, picture=240),
        "compare": Node(
            "ImageCompare",
            2,
            {"image_a": Link("a"), "image_b": Link("a_prime")},
            "The edit: a and a′",
            360,
            picture=280,
        ),
        "note": note(
            f"1. {files_line()} No diffusion model is needed here.",
            "2. Put your pictures in the place of the drawn ones; b is a picture of the kind to edit.",
            "3. Run. The LoRA comes into *models/loras* for **Load LoRA**; *mode* rank or error makes it smaller.",
            "4. It is the learned part of the edit: FLUX.1 Kontext does best with the example as reference too.",
            "5. A double click opens the block: **Mixture Edit** leaves parts of the edit out.",
        ),
    }
    return Workflow(nodes, block)


def fit_an_example() -> Workflow:
    inside = loaders() | edited(20, "b' alone")
    del inside["vision"], inside["encoder"]
    vae, positive = Link("autoencoder"), Link("guidance")
    # Not the analogy: another b is then no other fit.
    example = {"analogy": None, "a": Outer("a"), "a_prime": Outer("a_prime")}
    inside |= {
        "fit": fit(Link("kontext"), vae, positive, 20, basis=Link("basis"), **example),
        "keep": Node("LoRWeBSaveMixture", 4, {"mixture": Link("fit"), "name": Outer("mixture_name", "my_fitted_edit")}),
    }
    block = Block(
        "Edit by Fitted Example",
        "Fits the mixture that makes the edit from a to a', saves it, and makes b' with it.",
        (*PICTURES, *SETTINGS, "mixture_name", *(file for file in FILES if file != "image_encoder")),
        inside,
        {"b_prime": Link("result"), "mixture": Link("fit"), "example": Link("fit", 1)},
    )
    nodes = pictures() | {
        "block": block_node(**shown_pictures()),
        "save": save("b′: the result", Link("block"), "fitted"),
        "compare": compare("b and b′", Link("b"), Link("block")),
        "preview": Node("PreviewImage", 2, {"images": Link("block", 2)}, "a, a′, and a′ as fitted", 360, picture=280),
        "note": note(
            f"1. {files_line()} No image encoder is needed; the fit takes about 17 GB of the GPU.",
            "2. Put your pictures in the place of the drawn ones, and say the edit in *prompt*.",
            "3. Run: the mixture is fitted once; another b then takes one sampling only.",
            "4. Cancel keeps what is found: the same settings go on from there.",
            "5. A double click opens the block, where **Fit Mixture** shows its losses.",
        ),
    }
    return Workflow(nodes, block)


def train_your_own_basis() -> Workflow:
    block = Block(
        "Models and Prompt",
        "Loads FLUX.1 Kontext and all that a training needs beside it.",
        ("prompt", "kontext", "image_encoder", "clip_l", "t5", "vae"),
        {name: node for name, node in loaders().items() if name != "basis"}
        | {"prompt": prompt("Prompt: the same for all edits"), "guidance": guidance()},
        {
            "model": Link("kontext"),
            "vae": Link("autoencoder"),
            "positive": Link("guidance"),
            "clip_vision": Link("vision"),
        },
    )
    given = {name: Link("block", slot) for slot, name in enumerate(block.outputs)}
    train = {"folder": "", "sample_every": 100, "name": "my_basis"}
    nodes = {
        "block": Node(BLOCK, 0, width=360),
        "note": Node(
            NOTE,
            0,
            note(
                f"1. {files_line()}",
                "2. In *input* make a folder with a folder for each edit, and two or more pairs in each: "
                "`night/house_before.png`, `night/house_after.png` and so on.",
                "3. Write its name into **folder** and run. **held_out** names edits to keep from training.",
                "4. Cancel keeps what is learned. 32 LoRAs of rank 4 take about 13 GB beside the model.",
                "5. Press R, and choose *my_basis* as **basis** in *Edit by example*.",
            ).inputs,
            "Read me",
            360,
            picture=260,
        ),
        "train": Node("LoRWeBTrainBasis", 1, given | train, width=420, picture=200),
        "samples": Node(
            "PreviewImage", 2, {"images": Link("train", 1)}, "Samples: a, a′, b, the basis's b′, b′", 420, picture=330
        ),
        "curves": Node(
            "PreviewImage",
            2,
            {"images": Link("train", 3)},
            "Curves: the loss, and how the LoRAs are used",
            420,
            picture=330,
        ),
    }
    return Workflow(nodes, block)


WORKFLOWS = {
    "Try it now.app": try_it_now(),
    "Edit by example": edit_by_example(),
    "Best of four": best_of_four(),
    "From one edit to another": from_one_edit_to_another(),
    "An edit as a LoRA": an_edit_as_a_lora(),
    "Fit an example": fit_an_example(),
    "Train your own basis": train_your_own_basis(),
}
