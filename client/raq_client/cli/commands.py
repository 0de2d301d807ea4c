"""The table of commands: what `raq-client --help` and completion show without loading a command's module. No logic."""

from typing import Final, NamedTuple

START: Final = "Start here"
PLAN: Final = "Plan"
IMPORTANCE: Final = "Importance"
RECIPES: Final = "Recipes"
MORE: Final = "More"


class Command(NamedTuple):
    """A command: the function `module:function` under raq_client.cli, or a group of the commands in `parts`.

    `summary` is the first line of the function's docstring (a test compares them).
    """

    name: str
    target: str
    summary: str
    panel: str = ""
    parts: "tuple[Command, ...]" = ()


IMATRIX: Final[tuple[Command, ...]] = (
    Command("collect", "collect:collect", "Collect importance by running text through a model."),
    Command("render", "render:render", "Render chats as text by a model's own chat template."),
    Command("show", "imatrix:show", "Show the figures of an importance file."),
    Command("ratio", "imatrix:ratio", "Compare how hard two kinds of text drive each tensor."),
    Command("paths", "paths:paths", "Show where a text lights a model up."),
    Command("merge", "imatrix:merge", "Add importance files up, or blend them by weights."),
    Command("convert", "imatrix:convert", "Write an importance file in the other format."),
)
RECIPE: Final[tuple[Command, ...]] = (
    Command("list", "recipe:list_recipes", "List the recipes of raq and the mixtures of llama.cpp."),
    Command("show", "recipe:show", "Show a recipe: what it states, and what a build would write."),
    Command("verify", "recipe:verify", "Check a recipe before it is built or carried out."),
    Command("new", "recipe_build:new", "Write a commented build recipe."),
    Command("build", "recipe_build:build", "Build what a recipe states: the model file, its check and its manifest."),
    Command("replay", "recipe_build:replay", "Build again what a manifest describes, and compare every hash."),
    Command(
        "attest",
        "recipe_attest:attest",
        "Build again what a manifest describes and, if every byte is the same, write a statement of it.",
    ),
    Command(
        "verify-attestation",
        "recipe_attest:verify_attestation",
        "Check a model against a statement: its bytes, and with --rebuild that its inputs lead to them.",
    ),
    Command("diff", "recipe_build:diff", "Compare two recipes: their keys, and the types that they come to."),
    Command("schema", "recipe_build:schema", "Print the JSON schema of build recipes."),
)
CACHE: Final[tuple[Command, ...]] = (
    Command("show", "cache:show", "Show what the cache holds."),
    Command("clean", "cache:clean", "Remove what the cache holds."),
)
BENCH: Final[tuple[Command, ...]] = (
    Command("list", "bench:list_benchmarks", "List the benchmarks and bundles that raq knows."),
    Command("lock", "bench:lock_benchmarks", "Fetch benchmarks and pin their data in the lock file."),
    Command("fetch", "bench:fetch_benchmarks", "Fetch benchmarks that the lock pins; anything else is refused."),
    Command("verify", "bench:verify", "Check the rows on this disk against the lock, without the network."),
    Command("corpus", "bench:corpus", "Make calibration text of locked benchmarks, interleaved in a stated mix."),
    Command("ab", "bench_ab:ab", "Compare two models on locked benchmarks, item by item."),
)
COMMANDS: Final[tuple[Command, ...]] = (
    Command("run", "run:run", "Quantize a model to a budget and check it on text.", START),
    Command("check", "check:check", "Measure how far a quantized model is from its original.", START),
    Command("compare", "compare:compare", "Say which of several quantized files is better.", START),
    Command("dashboard", "dashboard:dashboard", "Show models, plans, builds and comparisons in a browser.", START),
    Command("init", "init:init", "Write a commented raq.toml into this folder.", START),
    Command("solve", "solve:solve", "Find the best allocation within a budget, with proof.", PLAN),
    Command("sweep", "sweep:sweep", "Solve a range of budgets: the frontier of size and loss.", PLAN),
    Command("explain", "explain:explain", "Say why a tensor has its type, or what constraints cost.", PLAN),
    Command("audit", "explain:audit", "Say how far an allocation is from the best of its size.", PLAN),
    Command("suggest", "suggest:suggest", "Suggest which blocks, tensors or experts to raise.", PLAN),
    Command("ladder", "ladder:ladder", "Quantize several steps and check each against the last.", PLAN),
    Command("imatrix", "", "Importance files: collect, show, ratio, paths, merge …", IMPORTANCE, IMATRIX),
    Command("bench", "", "Benchmarks: list, lock, fetch, verify, corpus, ab.", IMPORTANCE, BENCH),
    Command("profile", "profile:profile", "Measure the error of every tensor at every quant type.", IMPORTANCE),
    Command("sensitivity", "sensitivity:sensitivity", "Measure how much each tensor moves the output.", IMPORTANCE),
    Command("recipe", "", "Recipes: new, show, verify, build, replay, diff …", RECIPES, RECIPE),
    Command("quantize", "quantize:quantize", "Write a model with the types of an allocation.", RECIPES),
    Command("capture", "capture:capture", "Collect importance from the traffic of a server.", MORE),
    Command(
        "sensitivity-import",
        "sensitivity_import:sensitivity_import",
        "Add published sensitivities to a profile.",
        MORE,
    ),
    Command("card", "card:card", "Write the model card of quantized files.", MORE),
    Command("publish", "publish:publish", "Upload quantized files with card, plans and manifests.", MORE),
    Command("splice", "splice:splice", "Write a model with tensors taken from other files.", MORE),
    Command("base", "base:base", "Show the types and size that a mixture gives a model.", MORE),
    Command("inspect", "inspect:inspect", "Show what GGUF files hold: sizes, blocks, types.", MORE),
    Command("vram", "vram:vram", "Find the largest context that fits beside a model.", MORE),
    Command("convert", "convert:convert", "Write a model as GGUF in F16, BF16 or F32.", MORE),
    Command("types", "types:types", "List the quant types: bits, blocks, importance, speed.", MORE),
    Command("cache", "", "The user's cache: show, clean.", MORE, CACHE),
    Command("doctor", "doctor:doctor", "Show what raq finds on this machine.", MORE),
    Command("help", "help_command:show_help", "Print the help of a command.", MORE),
)
