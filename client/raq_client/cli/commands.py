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
    Command("show", "imatrix:show", "Show the figures of an importance file."),
    Command("ratio", "imatrix:ratio", "Compare how hard two kinds of text drive each tensor."),
    Command("merge", "imatrix:merge", "Add importance files up, or blend them by weights."),
    Command("convert", "imatrix:convert", "Write an importance file in the other format."),
)
RECIPE: Final[tuple[Command, ...]] = (
    Command("list", "recipe:list_recipes", "List the recipes of raq and the mixtures of llama.cpp."),
    Command("show", "recipe:show", "Show a recipe: its base, its moves, the recipes it extends."),
    Command("verify", "recipe:verify", "Check a recipe's size on a model's table of tensors."),
)
COMMANDS: Final[tuple[Command, ...]] = (
    Command("run", "run:run", "Quantize a model to a budget and check it on text.", START),
    Command("check", "check:check", "Measure how far a quantized model is from its original.", START),
    Command("compare", "compare:compare", "Say which of several quantized files is better.", START),
    Command("init", "init:init", "Write a commented raq.toml into this folder.", START),
    Command("solve", "solve:solve", "Find the best allocation within a budget, with proof.", PLAN),
    Command("sweep", "sweep:sweep", "Solve a range of budgets: the frontier of size and loss.", PLAN),
    Command("explain", "explain:explain", "Say why a tensor has its type, or what constraints cost.", PLAN),
    Command("audit", "explain:audit", "Say how far an allocation is from the best of its size.", PLAN),
    Command("ladder", "ladder:ladder", "Quantize several steps and check each against the last.", PLAN),
    Command("imatrix", "", "Importance files: collect, show, ratio, merge, convert.", IMPORTANCE, IMATRIX),
    Command("profile", "profile:profile", "Measure the error of every tensor at every quant type.", IMPORTANCE),
    Command("sensitivity", "sensitivity:sensitivity", "Measure how much each tensor moves the output.", IMPORTANCE),
    Command(
        "sensitivity-import",
        "sensitivity_import:sensitivity_import",
        "Add published sensitivities to a profile.",
        IMPORTANCE,
    ),
    Command("recipe", "", "Recipes: list, show, verify.", RECIPES, RECIPE),
    Command("base", "base:base", "Show the types and size that a mixture gives a model.", RECIPES),
    Command("quantize", "quantize:quantize", "Write a model with the types of an allocation.", RECIPES),
    Command("vram", "vram:vram", "Find the largest context that fits beside a model.", MORE),
    Command("help", "help_command:show_help", "Print the help of a command.", MORE),
)
